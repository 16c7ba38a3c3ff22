# syntax=docker/dockerfile:1
# reefd in two stages: the first builds the virtual environment from the lock file (hashes checked), the second runs it as a plain user.
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
RUN python -m venv /opt/reefd
COPY requirements.lock ./
RUN /opt/reefd/bin/python -m pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY daemon ./daemon
RUN /opt/reefd/bin/python -m pip install --no-deps --no-build-isolation . \
 && /opt/reefd/bin/python -m compileall -q /opt/reefd

FROM python:3.13-slim
LABEL org.opencontainers.image.title="reefd" org.opencontainers.image.description="A runbook automation daemon for perpetuals"
# The journal lives in /var/lib/reefd: mount a volume there. The settings are /etc/reefd/reefd.yaml; paths in them are relative to
# /var/lib/reefd, so the runbooks and limits beside them are named here (like any other key: REEFD_VENUES__DYDX__URL=...).
ENV PATH=/opt/reefd/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    REEFD_CONFIG=/etc/reefd/reefd.yaml REEFD_RUNBOOKS=/etc/reefd/runbooks REEFD_LIMITS=/etc/reefd/limits.yaml
RUN groupadd --system --gid 10001 reefd \
 && useradd --system --uid 10001 --gid reefd --home-dir /var/lib/reefd --shell /usr/sbin/nologin reefd \
 && install -d -o reefd -g reefd -m 0750 /var/lib/reefd
COPY --from=build /opt/reefd /opt/reefd
COPY config /etc/reefd
COPY runbooks /etc/reefd/runbooks
WORKDIR /var/lib/reefd
VOLUME /var/lib/reefd
USER reefd
# `reefd status` reads the daemon's own journal: not running, or not turning for a while, is unhealthy.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["reefd", "status"]
# The operator's surface: 127.0.0.1 inside the container unless REEFD_HTTP__HOST says otherwise.
EXPOSE 8470
STOPSIGNAL SIGTERM
CMD ["reefd", "run"]
