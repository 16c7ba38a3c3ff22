// Keeps a page alive: it listens to the stream, asks for the page anew when something happened, and changes only what changed.
// Everything works without it; it adds that nobody has to reload.
(function () {
  'use strict';
  var body = document.body, source = body.dataset.live, pulse = body.dataset.refresh === '/pulse';
  var STALE_MS = 12000, PROBE_MS = 6000, GATHER_MS = 300, CALM_MS = location.pathname === '/' ? 1500 : 4000, MOVED_MS = 700, MOVED_PX = 20, AGAIN_MAX_MS = 30000;
  var stale = document.getElementById('stale'), news = document.getElementById('news');

  // --- the clock: the daemon's, which may run faster than ours ---
  var clock = {at: +body.dataset.at, speed: +body.dataset.speed || 1, seen: performance.now()};
  function now() { return clock.at + (performance.now() - clock.seen) * clock.speed; }
  function set(other) { clock = {at: +other.dataset.at, speed: +other.dataset.speed || 1, seen: performance.now()}; }
  function span(seconds) {
    var rest = Math.floor(Math.abs(seconds)), parts = [], units = [['d', 86400], ['h', 3600], ['m', 60], ['s', 1]];
    for (var i = 0; i < 4 && parts.length < 2; i++) {
      var count = Math.floor(rest / units[i][1]);
      rest -= count * units[i][1];
      if (count || parts.length) parts.push(count ? count + units[i][0] : '');
    }
    return parts.filter(Boolean).join(' ') || '0s';
  }
  function told(time, at) {
    var away = (Date.parse(time.dateTime) - at) / 1000;
    switch (time.dataset.rel) {
      case 'for': return span(Math.max(0, -away));
      case 'left': return away > 0 ? span(away) + ' left' : 'lapsed';
      default: return away >= 1 ? 'in ' + span(away) : away <= -1 ? span(away) + ' ago' : 'now';
    }
  }
  function tick() {
    var at = now(), times = document.querySelectorAll('time[data-rel]');
    for (var i = 0; i < times.length; i++) {
      var text = told(times[i], at);
      if (times[i].textContent !== text) times[i].textContent = text;
    }
  }
  setInterval(tick, 1000);
  tick();

  // --- what a person typed, opened or is about to touch stays ---
  var dirty = new WeakSet(), movedAt = -MOVED_MS;
  document.addEventListener('input', function (event) { dirty.add(event.target); }, true);
  document.addEventListener('submit', function (event) {
    if (performance.now() - movedAt < MOVED_MS && event.target.method === 'post' && !event.target.classList.contains('panel')
        && document.getElementById('needs') && document.getElementById('needs').contains(event.target)) {
      event.preventDefault();
      say('The page has just changed under your finger: look again, then press.', true);
      return;
    }
    if (event.target.method === 'post') {
      if (event.target.dataset.sent) { event.preventDefault(); return; }
      event.target.dataset.sent = '1';
      setTimeout(function () { delete event.target.dataset.sent; }, 4000);
    }
  });
  window.addEventListener('pageshow', function (event) { if (event.persisted) { look(); listen(); } });

  function key(node) { return node.nodeType === 1 ? node.id || node.getAttribute('data-key') || '' : ''; }
  function alike(a, b) { return a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b); }
  function fits(a, b) {
    if (a.nodeType === 3) { if (a.nodeValue !== b.nodeValue) a.nodeValue = b.nodeValue; return; }
    if (a.nodeType !== 1 || a.isEqualNode(b)) return;
    if (a.nodeName === 'TIME' && a.dateTime === b.dateTime && a.dataset.rel === b.dataset.rel) return;
    var i, name;
    for (i = a.attributes.length - 1; i >= 0; i--) {
      name = a.attributes[i].name;
      if (!b.hasAttribute(name) && !(a.nodeName === 'DETAILS' && name === 'open') && name !== 'data-sent') a.removeAttribute(name);
    }
    for (i = 0; i < b.attributes.length; i++) {
      name = b.attributes[i].name;
      if (a.nodeName === 'DETAILS' && name === 'open') continue;
      if (a.getAttribute(name) !== b.attributes[i].value) a.setAttribute(name, b.attributes[i].value);
    }
    if ((a.nodeName === 'SELECT' || a.nodeName === 'TEXTAREA') && (dirty.has(a) || a === document.activeElement)) return;
    children(a, b);
  }
  function children(a, b) {
    var at = a.firstChild, kept = {}, child, found, i;
    for (child = a.firstChild; child; child = child.nextSibling) if (key(child)) kept[key(child)] = child;
    for (i = 0; i < b.childNodes.length; i++) {
      child = b.childNodes[i];
      found = key(child) ? kept[key(child)] : at;
      if (found && alike(found, child)) {
        if (found === at) at = at.nextSibling; else a.insertBefore(found, at);
        fits(found, child);
      } else {
        found = document.importNode(child, true);
        if (found.nodeType === 1 && key(child)) found.classList.add('fresh');
        a.insertBefore(found, at);
      }
    }
    while (at) { found = at.nextSibling; a.removeChild(at); at = found; }
  }
  // Where every card of what waits stands, by its name: a press is only for the card it was meant for.
  function places() {
    var found = {}, needs = document.getElementById('needs');
    if (needs) needs.querySelectorAll('article').forEach(function (card) {
      var form = card.querySelector('form');
      found[key(card)] = Math.round((form || card).getBoundingClientRect().top);
    });
    return found;
  }
  function moved(before, after) {
    var names = Object.keys(after);
    return names.length !== Object.keys(before).length
      || names.some(function (name) { return !(name in before) || Math.abs(before[name] - after[name]) > MOVED_PX; });
  }
  function swap(page) {
    var before = places();
    // A pulse has no content of its own: ours stays.
    if (pulse) page.getElementById('main').replaceWith(page.importNode(document.getElementById('main'), true));
    ['live', 'thumb', 'state'].forEach(function (id) {
      var a = document.getElementById(id), b = page.getElementById(id);
      if (a && b) fits(a, b);
    });
    document.title = pulse ? page.title.split(' · ')[0] + ' · ' + document.title.split(' · ').slice(1).join(' · ') : page.title;
    if (page.body.dataset.at) set(page.body);
    tick();
    if (moved(before, places())) movedAt = performance.now();
  }

  // --- the page anew: at most one request at a time, and one more when something happened meanwhile ---
  var asking = false, again = false, timer = 0, due = 0;
  function soon(ms) {
    var at = performance.now() + ms;
    if (timer && due <= at) return;
    clearTimeout(timer);
    due = at;
    timer = setTimeout(function () { timer = 0; look(); }, ms);
  }
  function look() {
    if (document.hidden) { again = true; return; }
    if (asking) { again = true; return; }
    asking = true;
    again = false;
    fetch(body.dataset.refresh, {headers: {'X-Fragment': 'main', 'Accept': 'text/html'}, credentials: 'same-origin', cache: 'no-store'}).then(function (answer) {
      if (answer.redirected && new URL(answer.url).pathname === '/login') { location.reload(); throw new Error('signed out'); }
      return answer.text();
    }).then(function (text) {
      var page = new DOMParser().parseFromString(text, 'text/html');
      if (!page.getElementById('live')) throw new Error('no page');
      swap(page);
      if (!page.body.hasAttribute('data-answers')) quiet('the daemon does not answer'); else if (open) heard();
    }).catch(function () { if (!open) quiet('the daemon cannot be reached'); }).finally(function () {
      asking = false;
      if (again) soon(GATHER_MS);
    });
  }
  document.addEventListener('visibilitychange', function () { if (!document.hidden) { look(); listen(); } });

  // --- the stream ---
  var stream = null, open = false, last = Date.now(), lost = 0, wait = 1000, retry = 0;
  function clocked(ms) { return new Date(ms).toISOString().slice(11, 19) + ' UTC'; }
  function quiet(why) {
    if (!lost) lost = last;
    stale.querySelector('p').textContent = 'Stale since ' + clocked(lost) + ': ' + why + '. What is shown is the past; trying again.';
    stale.hidden = false;
    body.classList.add('is-stale');
  }
  function heard() {
    last = Date.now();
    if (lost) { lost = 0; stale.hidden = true; body.classList.remove('is-stale'); }
  }
  function say(text, loud) {
    var line = document.createElement('p');
    line.textContent = text;
    news.appendChild(line);
    while (news.childNodes.length > 5) news.removeChild(news.firstChild);
    if (loud) {
      news.classList.add('loud');
      setTimeout(function () { news.classList.remove('loud'); }, 4000);
    }
  }
  function listen() {
    if (!source || (stream && stream.readyState !== 2)) return;
    clearTimeout(retry);
    stream = new EventSource(source);
    stream.onopen = function () { open = true; wait = 1000; heard(); look(); };
    stream.onerror = function () {
      open = false;
      quiet('the stream broke off');
      if (stream.readyState === 2) {
        retry = setTimeout(listen, wait);
        wait = Math.min(AGAIN_MAX_MS, wait * 2);
      }
    };
    stream.addEventListener('snapshot', function () { heard(); soon(CALM_MS); });
    stream.addEventListener('lagged', function () { heard(); soon(GATHER_MS); });
    stream.addEventListener('unavailable', function () { quiet('the daemon does not answer'); soon(CALM_MS); });
    stream.addEventListener('happening', function (event) {
      heard();
      soon(GATHER_MS);
      try {
        var happening = JSON.parse(event.data);
        if (happening.severity !== 'info' || happening.kind === 'TriggerChanged' || happening.kind === 'ApprovalRequested') say(happening.summary);
      } catch (error) { /* a line that cannot be read is still news: the page is asked for anew */ }
    });
  }
  setInterval(function () {
    if (!source || document.hidden) return;
    if (Date.now() - last > STALE_MS) look();
    if (Date.now() - last > 2 * STALE_MS) quiet('nothing was heard');
  }, PROBE_MS);
  listen();

  // --- small things ---
  var message = document.getElementById('told');
  if (message) {
    message.focus({preventScroll: true});
    var address = new URL(location.href);
    address.searchParams.delete('told');
    history.replaceState(null, '', address);
  }
  document.addEventListener('keydown', function (event) {
    if (event.key !== 'Escape') return;
    document.querySelectorAll('details.drawer[open]').forEach(function (drawer) { drawer.open = false; drawer.querySelector('summary').focus(); });
  });
})();
