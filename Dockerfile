# syntax=docker/dockerfile:1
# The image that k8s/ runs: docker build --build-arg VERSION=1 -t registry/distgan:1 .
#
# Versions are those of constraints.txt. torch comes with the CUDA libraries that it needs, so only the build has a CUDA toolkit.

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build
# The architectures to compile for: A100, H100 and H200, B200, and what comes after by way of PTX.
ARG CUDA_ARCHITECTURES="8.0;9.0;10.0+PTX"
# Not pinned: Ubuntu keeps no old versions of a package, so that a pinned one cannot be installed for long.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/distgan
ENV PATH=/opt/distgan/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT=/src/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# What changes rarely first: gigabytes that are not fetched again for a changed line of ours.
COPY constraints.txt ./
# PIP_CONSTRAINT pins them.
# hadolint ignore=DL3013
RUN pip install setuptools torch ninja pybind11
COPY pyproject.toml setup.py README.md LICENSE ./
COPY csrc csrc
COPY distgan distgan
# hadolint ignore=DL3013
RUN TORCH_CUDA_ARCH_LIST="$CUDA_ARCHITECTURES" DS_BUILD_OPS=0 pip install --no-build-isolation '.[deepspeed,s3]'

FROM ubuntu:24.04
ARG VERSION=unknown
LABEL org.opencontainers.image.title="distgan" \
      org.opencontainers.image.description="Distributed training of GANs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
# gcc and Python's headers are for torch.compile, which compiles at run time; curl reads the shards of data.mode stream.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl gcc libc6-dev python3 python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp distgan
COPY --from=build /opt/distgan /opt/distgan
COPY launch/recipes /opt/distgan/recipes
ENV PATH=/opt/distgan/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
# Rank 0's metrics, which are there as soon as training begins; Kubernetes has probes of its own and takes no notice.
HEALTHCHECK --interval=60s --timeout=10s --start-period=15m \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:9400/metrics"]
ENTRYPOINT ["python", "-m", "distgan.launch"]
CMD ["worker", "--help"]
