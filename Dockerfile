# syntax=docker/dockerfile:1
# The image that k8s/ runs: docker build --build-arg VERSION=1 --build-arg REVISION="$(git rev-parse HEAD)" -t registry/distgan:1 .
#
# Python's packages are those of constraints.txt, CUDA's libraries and its compiler included. The layers come in the order in which they change:
# a version of distgan with the same dependencies is new in the last one only, a few megabytes.

FROM ubuntu:24.04 AS dependencies
# g++ and Python's headers are for the operators, and for torch.compile, which compiles at run time; curl reads the shards of data.mode stream.
# Not pinned: Ubuntu keeps no old versions of a package, so that a pinned one cannot be installed for long.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp distgan \
    && python3 -m venv /opt/distgan
ENV PATH=/opt/distgan/bin:$PATH PIP_CONSTRAINT=/opt/distgan/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /opt/distgan/
# PIP_CONSTRAINT pins what has no version here.
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install pip setuptools \
    && pip install torch
# What distgan requires, without distgan: its build and its own layer need nothing more from an index.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=pyproject.toml,target=/tmp/pyproject.toml \
    python -c "import tomllib; project = tomllib.load(open('/tmp/pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; print(*project['dependencies'], *extras['deepspeed'], *extras['s3'], sep='\n')" > /tmp/requirements.txt \
    && DS_BUILD_OPS=0 pip install --no-build-isolation --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

FROM dependencies AS build
# The nvcc of the toolkit whose libraries torch requires.
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install 'cuda-toolkit[cccl,nvcc]' ninja pybind11 \
    && nvcc=$(ls /opt/distgan/lib/python3*/site-packages/nvidia/*/bin/nvcc) \
    && ln -s "${nvcc%/bin/nvcc}" /usr/local/cuda \
    && ln -s lib /usr/local/cuda/lib64
# The architectures to compile for: A100, H100 and H200, B200, and what comes after by way of PTX.
ARG CUDA_ARCHITECTURES="8.0;9.0;10.0+PTX"
# The same sources give the same wheel: without these, times of the checkout and nvcc's process number stand in it.
ARG SOURCE_DATE_EPOCH=315532800
ENV NVCC_APPEND_FLAGS="--objdir-as-tempdir --frandom-seed=distgan"
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY csrc csrc
COPY distgan distgan
COPY k8s k8s
COPY launch launch
# Installed without an index, which fails where the layers before lack something that distgan requires.
# hadolint ignore=DL3013
RUN TORCH_CUDA_ARCH_LIST="$CUDA_ARCHITECTURES" pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
    && pip install --no-cache-dir --no-index --find-links /wheels --prefix /install 'distgan[deepspeed,s3]'

FROM dependencies
COPY launch/recipes /opt/distgan/recipes
COPY --from=build /install /opt/distgan
ENV PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
# Rank 0's metrics, which are there as soon as training begins; Kubernetes has probes of its own and takes no notice.
HEALTHCHECK --interval=60s --timeout=10s --start-period=15m \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:9400/metrics"]
ENTRYPOINT ["python", "-m", "distgan.launch"]
CMD ["worker", "--help"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="distgan" \
      org.opencontainers.image.description="Distributed training of GANs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
