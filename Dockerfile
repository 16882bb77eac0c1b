# Two images from one file:
#
#     docker build -t lvs-dr-agent:dev .                        lvs-agent, lvs-election, lvs-node-init (the default target)
#     docker build -t lvs-dr-operator:dev --target operator .   lvs-operator
#
# Every Python artefact comes from requirements/*.lock and must match its hash. Behind a proxy that signs for itself give the
# builder its CA bundle: --volume BUNDLE:BUNDLE:ro --build-arg PIP_CERT=BUNDLE.
ARG BASE=docker.io/library/debian:trixie-slim

# python3 alone: python3-minimal has no asyncio, ssl or ipaddress.
FROM ${BASE} AS base
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt

# pip lives here only and installs into the environments of the final images from outside.
FROM base AS tools
ARG PIP_CERT
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv ca-certificates >/dev/null
WORKDIR /src
COPY requirements/build.lock requirements/
RUN python3 -m venv /build && /build/bin/pip install -q --require-hashes --no-deps -r requirements/build.lock

# What the images need of others: no pip, no sources of C extensions, no tests. Bytecode that is never checked against a
# file's date: an import then reads one file instead of two, and nothing is ever written. pip must not compile (PIP_NO_COMPILE=1
# means that it does): compileall leaves alone what is compiled.
FROM tools AS agent-dependencies
ARG PIP_CERT
ARG PIP_INDEX_URL
COPY requirements/agent.lock requirements/
RUN python3 -m venv --without-pip /opt/lvs && rm -f /opt/lvs/bin/[Aa]ctivate* \
 && /build/bin/pip --python /opt/lvs/bin/python3 install -q --no-compile --require-hashes --no-deps -r requirements/agent.lock \
 && find /opt/lvs/lib \( -name '*.pyx' -o -name '*.px[di]' -o -name '*.[ch]' -o -name '*.pyi' \) -delete \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/lvs/lib

FROM tools AS operator-dependencies
ARG PIP_CERT
ARG PIP_INDEX_URL
COPY requirements/operator.lock requirements/
RUN python3 -m venv --without-pip /opt/lvs && rm -f /opt/lvs/bin/[Aa]ctivate* \
 && /build/bin/pip --python /opt/lvs/bin/python3 install -q --no-compile --require-hashes --no-deps -r requirements/operator.lock \
 && find /opt/lvs/lib \( -name '*.pyx' -o -name '*.px[di]' -o -name '*.[ch]' -o -name '*.pyi' \) -delete \
 && rm -rf /opt/lvs/lib/python3*/site-packages/kubernetes/aio /opt/lvs/lib/python3*/site-packages/kubernetes/e2e_test \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/lvs/lib

# Ours.
FROM tools AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY crds crds
COPY operator operator
COPY nodeagent nodeagent
RUN /build/bin/pip wheel -q --no-build-isolation --no-deps --wheel-dir /wheel .

FROM agent-dependencies AS agent-environment
COPY --from=wheel /wheel /wheel
RUN /build/bin/pip --python /opt/lvs/bin/python3 install -q --no-compile --no-index --no-deps /wheel/*.whl \
 && rm -rf /opt/lvs/lib/python3*/site-packages/lvsoperator /opt/lvs/bin/lvs-operator \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/lvs/lib/python3*/site-packages/lvs*

FROM operator-dependencies AS operator-environment
COPY --from=wheel /wheel /wheel
RUN /build/bin/pip --python /opt/lvs/bin/python3 install -q --no-compile --no-index --no-deps /wheel/*.whl \
 && rm -rf /opt/lvs/lib/python3*/site-packages/lvsagent /opt/lvs/bin/lvs-agent /opt/lvs/bin/lvs-checks \
      /opt/lvs/bin/lvs-election /opt/lvs/bin/lvs-node-init \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/lvs/lib/python3*/site-packages/lvs*

FROM base AS operator
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="lvs-dr-operator" \
      org.opencontainers.image.description="Assigns virtual routers and directors, writes conditions, keeps the agents" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH=/opt/lvs/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
COPY --from=operator-environment /opt/lvs /opt/lvs
USER 65532:65532
ENTRYPOINT ["lvs-operator"]

# Health checks of type HTTPS trust the usual authorities where an object names none: one file, not OpenSSL's package.
# Non-root by default; the DaemonSet runs it as UID 0 without any capability but the few that the kernel asks for.
FROM base AS agent
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="lvs-dr-agent" \
      org.opencontainers.image.description="Virtual IPs by LVS direct routing and VRRP: node agent, election, node preparation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH=/opt/lvs/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
COPY --from=tools /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=agent-environment /opt/lvs /opt/lvs
USER 65532:65532
ENTRYPOINT ["lvs-agent"]
