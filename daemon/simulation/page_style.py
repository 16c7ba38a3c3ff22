"""How the page of a report looks and moves (floor 5): one style sheet, one small script, no font and no address of anybody else.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which people with any common colour blindness tell apart; what a
colour says is also said by a dash, a shape or a word.
"""

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#17202b;--soft:#55606e;--edge:#dde2e8;--grid:#e7ebf0;
  --with:#0067a8;--without:#c75000;--good:#0067a8;--bad:#b34200;--band:#a8578a;--move:#00765a;--alarm:#b34200;--price:#3b4654;
    --chip:#eef2f6}
@media (prefers-color-scheme:dark){
  :root{--page:#11161c;--card:#1a212a;--ink:#e8edf3;--soft:#a3afbd;--edge:#2c3641;--grid:#28313b;--with:#56b4e9;
    --without:#f0a030;--good:#6cc0f0;--bad:#ff9a5c;--band:#d48fbb;--move:#35c79c;--alarm:#ff9a5c;--price:#c3ccd6;--chip:#242d38}
}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue","Noto Sans","Liberation Sans",Arial,sans-serif;font-variant-numeric:tabular-nums;
    -webkit-text-size-adjust:100%}
header,main,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{font-size:22px;line-height:1.25;margin:0 0 2px}
h2{font-size:19px;line-height:1.3;margin:0 0 4px}
h3{font-size:15px;margin:0;font-weight:650}
h3 small{font-weight:400;color:var(--soft);font-size:13px;margin-left:4px}
p{margin:0 0 10px;max-width:76ch}
.soft{color:var(--soft);font-size:14px}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:4px 16px;padding:0;margin:12px 0 0;font-size:14px}
a{color:var(--with);text-underline-offset:2px}
:focus-visible{outline:2px solid var(--with);outline-offset:2px}
section{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:20px 22px;margin:18px 0}
.lead{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:8px 36px;align-items:start}
.lead h2{font-size:15px;font-weight:600;color:var(--soft)}
.figure{font-size:46px;line-height:1.1;font-weight:700;letter-spacing:-.02em;margin:2px 0 8px;white-space:nowrap}
.figure small{font-size:20px;font-weight:500;letter-spacing:0;color:var(--soft)}
.up{color:var(--good)}
.down{color:var(--bad)}
.verdict{display:inline-block;background:var(--chip);border-left:4px solid var(--without);border-radius:4px;padding:6px 12px;
  font-weight:600;margin:0 0 10px}
.verdict.solid{border-color:var(--with)}
.tiles{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:1px;background:var(--edge);border:1px solid var(--edge);
  border-radius:8px;overflow:hidden;margin:16px 0 0}
.tiles>div{background:var(--card);padding:12px 14px}
.tiles dt{font-size:13px;color:var(--soft);margin:0}
.tiles dd{margin:2px 0 0;font-size:20px;font-weight:650;line-height:1.25}
.tiles dd small{display:block;font-size:13px;font-weight:400;color:var(--soft);margin-top:2px}
.bars{width:100%;border-collapse:collapse;font-size:14px}
.bars th{text-align:left;font-weight:400;padding:4px 12px 4px 0;white-space:nowrap}
.bars td{padding:4px 0}
.bars td.num{text-align:right;padding-left:12px;white-space:nowrap}
.bars .bar{width:50%;min-width:90px}
.bars tr.sum th,.bars tr.sum td{border-top:1px solid var(--edge);font-weight:700}
.bars tr.luck{color:var(--soft)}
.bar>span{position:relative;display:block;height:14px;background:linear-gradient(var(--edge),
  var(--edge)) 50%/1px 100% no-repeat}
.bar i{position:absolute;top:1px;bottom:1px;border-radius:2px}
.bar i.plus{left:50%;background:var(--with)}
.bar i.minus{right:50%;background:var(--without)}
.luck .bar i{background:repeating-linear-gradient(45deg,var(--soft) 0 2px,transparent 2px 5px);border:1px solid var(--soft)}
.chart{margin:18px 0 6px}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:2px 20px;align-items:baseline;margin-bottom:8px}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 16px;margin:0;padding:0;font-size:13px;color:var(--soft)}
.legend li{display:flex;align-items:center;gap:6px}
.key{display:inline-block;width:22px;height:0;border-top:2.5px solid var(--price)}
.key.with{border-color:var(--with)}
.key.without{border-top:3px dashed var(--without)}
.key.bands{height:12px;border:0;background:var(--band);opacity:.35;width:14px}
.key.spot{width:10px;height:10px;border:0;border-radius:50%;background:var(--with)}
.key.move{border-radius:0;background:var(--move)}
.key.would{background:var(--card);border:2px solid var(--with)}
.key.liquidated,.key.liquidated-without{border-radius:0;background:var(--without)}
.key.liquidated{background:var(--ink)}
.plot{display:grid;grid-template-columns:66px minmax(0,1fr);grid-template-rows:230px 22px}
.ys,.xs{position:relative;font-size:12px;color:var(--soft)}
.ys span{position:absolute;right:8px;transform:translateY(-50%);white-space:nowrap}
.xs{grid-column:2}
.xs span{position:absolute;transform:translateX(-50%);white-space:nowrap;padding-top:4px}
.xs .end{transform:translateX(-100%)}
.xs .start{transform:none}
.area{position:relative;border-left:1px solid var(--edge);border-bottom:1px solid var(--edge);touch-action:pan-y}
.area svg{display:block;width:100%;height:100%;overflow:visible}
svg path{fill:none;vector-effect:non-scaling-stroke}
.grid{stroke:var(--grid)}
svg .bands{fill:var(--band);opacity:.18}
.line{stroke-width:1.75;stroke-linejoin:round}
.line.with{stroke:var(--with)}
.line.without{stroke:var(--without);stroke-width:2.25;stroke-dasharray:7 4}
.line.price{stroke:var(--price);stroke-width:1.4}
.level{stroke:var(--alarm);stroke-width:1.5;stroke-dasharray:2 3}
.level-name{position:absolute;right:4px;transform:translateY(3px);font-size:12px;font-weight:600;color:var(--alarm);
  background:var(--card);padding:0 4px;line-height:1.3}
.mark,.halo{stroke-linecap:round;stroke-width:9;stroke:var(--with)}
.halo{stroke:var(--card);stroke-width:12}
.mark.move,.halo.move{stroke-linecap:square}
.mark.move{stroke:var(--move);stroke-width:8}
.mark.would{stroke:var(--card);stroke-width:5}
.halo.would{stroke:var(--with);stroke-width:9}
.mark.liquidated{stroke:var(--ink);stroke-linecap:square}
.mark.liquidated-without{stroke:var(--without);stroke-linecap:square}
.halo.liquidated,.halo.liquidated-without{stroke-linecap:square}
.cursor{position:absolute;top:0;bottom:0;width:1px;background:var(--soft);pointer-events:none}
.reading{position:absolute;top:4px;background:var(--card);border:1px solid var(--edge);border-radius:6px;padding:4px 8px;
  font-size:12px;line-height:1.4;pointer-events:none;white-space:pre;box-shadow:0 1px 4px #0002}
.scroll{overflow-x:auto;margin:8px 0}
table.numbers{border-collapse:collapse;font-size:14px;min-width:min(100%,660px)}
.numbers th,.numbers td{padding:6px 9px;border-bottom:1px solid var(--edge);text-align:right;white-space:nowrap}
.numbers th:first-child,.numbers td.text,.numbers th.text{text-align:left}
.numbers thead th{font-size:13px;color:var(--soft);font-weight:600;white-space:normal;vertical-align:bottom;line-height:1.3}
.numbers tbody th{font-weight:400}
.numbers tr.sum th,.numbers tr.sum td{font-weight:700}
.numbers tr.part th{padding-left:28px;color:var(--soft)}
.numbers th:first-child{white-space:normal;min-width:18ch;overflow-wrap:break-word}
.numbers tbody th br+.soft{font-size:13px}
.tag{display:inline-block;font-size:12px;font-weight:600;border-radius:4px;padding:1px 7px;background:var(--chip);
  white-space:nowrap}
.tag.bad{color:var(--bad);box-shadow:inset 0 0 0 1px var(--bad)}
.tag.good{color:var(--good);box-shadow:inset 0 0 0 1px var(--good)}
.page{margin:8px 0;border:1px solid var(--edge);border-radius:8px}
.page>summary{padding:8px 14px;font-weight:600;font-size:14px}
summary{cursor:pointer}
.runs{border-collapse:collapse;width:100%;table-layout:fixed;font-size:14px}
.runs th{text-align:left;font-size:13px;color:var(--soft);font-weight:600;padding:6px 14px;border-top:1px solid var(--edge)}
.runs td{padding:8px 14px;border-top:1px solid var(--edge);vertical-align:top;overflow-wrap:anywhere}
.runs td.nowrap{white-space:nowrap}
.runs ul{margin:2px 0;padding-left:18px}
.runs details{margin-top:2px}
.runs summary{color:var(--soft)}
pre{font:12px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;
  background:var(--chip);border-radius:6px;padding:8px 10px;margin:6px 0;overflow-x:auto;white-space:pre-wrap}
ul.plain{padding-left:20px;margin:6px 0;max-width:90ch;font-size:15px}
ul.plain li{margin:4px 0}
footer{padding:4px 20px 36px}
@media (max-width:760px){
  .lead{grid-template-columns:minmax(0,1fr)}
}
@media (max-width:640px){
  header,main,footer{padding-left:12px;padding-right:12px}
  section{padding:16px 14px;border-radius:8px}
  .figure{font-size:36px}
  .plot{grid-template-columns:54px minmax(0,1fr);grid-template-rows:190px 22px}
  .xs span:nth-child(even){display:none}
  .ys,.xs{font-size:11px}
  .numbers th,.numbers td{padding:5px 5px;font-size:13px}
  .numbers tr.part th{padding-left:14px}
  .tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
  .tiles dd{font-size:17px}
  .runs thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
  .runs,.runs tbody,.runs tr,.runs td{display:block;width:100%}
  .runs tr{border-top:1px solid var(--edge);padding:8px 0}
  .runs td{border:0;padding:2px 14px}
  .runs td[data-label]::before{content:attr(data-label)": ";color:var(--soft);font-size:13px}
}
@media print{
  section{break-inside:avoid;border-color:#bbb}
  nav,.cursor,.reading{display:none}
}
"""

SCRIPT = """
document.querySelectorAll('.area').forEach(function (area) {
  var d = area.dataset, svg = area.querySelector('svg'), cursor = area.querySelector('.cursor'), out = area.querySelector('.reading');
  var width = svg.viewBox.baseVal.width, height = svg.viewBox.baseVal.height, low = +d.low, high = +d.high, lines = null;
  function read() {
    return Array.prototype.map.call(svg.querySelectorAll('.line'), function (path) {
      var numbers = (path.getAttribute('d').match(/[\\d.]+/g) || []).map(Number), xs = [], ys = [];
      for (var i = 0; i + 1 < numbers.length; i += 2) { xs.push(numbers[i]); ys.push(numbers[i + 1]); }
      return {name: path.dataset.name, xs: xs, ys: ys};
    }).reverse();
  }
  function value(y) {
    var share = 1 - y / height, v = d.log === '1' ? low * Math.pow(high / low, share) : low + share * (high - low);
    if (d.percent === '1') return (100 * v).toPrecision(3) + '%';
    // A drawing knows a value to a few thousandths of its axis: no more digits than that.
    var digits = Math.max(0, Math.min(6, 3 - Math.floor(Math.log10((high - low) || 1))));
    return v.toLocaleString('en-US', {maximumFractionDigits: digits});
  }
  function near(xs, x) {
    var a = 0, b = xs.length - 1;
    while (a < b) { var m = (a + b + 1) >> 1; if (xs[m] <= x) a = m; else b = m - 1; }
    return a;
  }
  function move(event) {
    lines = lines || read();
    var box = area.getBoundingClientRect(), share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    var text = [new Date(+d.first + share * (d.last - d.first)).toISOString().slice(0, 19).replace('T', ' ') + ' UTC'];
    lines.forEach(function (line) {
      if (line.xs.length && line.xs[0] <= share * width) text.push(line.name + ': ' + value(line.ys[near(line.xs, share * width)]));
    });
    out.textContent = text.join('\\n');
    cursor.hidden = out.hidden = false;
    cursor.style.left = 100 * share + '%';
    out.style.left = share < .5 ? 'calc(' + 100 * share + '% + 10px)' : 'auto';
    out.style.right = share < .5 ? 'auto' : 'calc(' + 100 * (1 - share) + '% + 10px)';
  }
  area.addEventListener('pointermove', move);
  area.addEventListener('pointerdown', move);
  area.addEventListener('pointerleave', function () { cursor.hidden = out.hidden = true; });
});
"""
