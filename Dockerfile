# The image: canaryproxy in a virtual environment of its own, run by a user without rights.
#   make image        builds it with the base pinned by the digest that its tag has today
#   docker build .    builds it on the tag below
# Its data path is compiled; --build-arg COMPILE=false builds plain Python, which does the same and needs no compiler.
# `make pin-base` writes today's digest into the next line, to be committed; docs/deploy.md says why.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
ARG COMPILE=true
# The compiler stays in this stage. Debian keeps no old versions to pin.
# hadolint ignore=DL3008
RUN if [ "${COMPILE}" = true ] && ! command -v gcc; then \
        apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi
# What it is built with and what it needs: exactly the files whose hashes are in the locks.
COPY requirements-build.lock requirements.lock ./
RUN pip install --require-hashes --only-binary :all: --requirement requirements-build.lock \
    && python -m venv --without-pip /opt/canaryproxy \
    && pip --python /opt/canaryproxy/bin/python install \
        --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY canaryproxy/ canaryproxy/
# The time in the wheel's archive: of the commit, so that the same commit gives the same wheel.
ARG SOURCE_DATE_EPOCH=0
# The compiler of types reads those of what is installed.
RUN PYTHONPATH="$(/opt/canaryproxy/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
        HATCH_BUILD_HOOK_ENABLE_MYPYC="${COMPILE}" SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH}" \
        pip wheel --no-build-isolation --no-deps --no-index --wheel-dir /wheels . \
    && pip --python /opt/canaryproxy/bin/python install --no-deps --no-index /wheels/*.whl \
    && /opt/canaryproxy/bin/canaryproxy --version > version \
    && if [ "${COMPILE}" = true ]; then grep compiled version; fi

FROM ${BASE}
ARG BASE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="canaryproxy" \
      org.opencontainers.image.description="A reverse proxy that releases the new version of a service safely" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=build /opt/canaryproxy /opt/canaryproxy
ENV PATH=/opt/canaryproxy/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# The only places that it writes to; both may be volumes under a read-only root.
RUN install --directory --owner=10001 --group=10001 --mode=0750 \
        /var/lib/canaryproxy /run/canaryproxy \
    && install --directory /etc/canaryproxy
WORKDIR /var/lib/canaryproxy
USER 10001:10001
EXPOSE 8080 9900
# It ends by itself when the requests in flight have, at the latest after limits.drain_timeout (30s).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-m", "canaryproxy.health"]
ENTRYPOINT ["canaryproxy"]
CMD ["run", "-c", "/etc/canaryproxy/canaryproxy.yaml", "--log-format", "json"]
