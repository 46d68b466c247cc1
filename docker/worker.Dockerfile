# What computes: the worker that drives jobs, and the nodes of the Ray cluster that trials run on.
# Build from the root of the repository: docker build -f docker/worker.Dockerfile -t archsmith-worker .
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/archsmith
ENV PATH=/opt/archsmith/bin:$PATH
# PyTorch comes first, in a layer of its own: it is by far the largest part and seldom changes.
# TORCH_INDEX is the address of one of PyTorch's own package indexes, for a build for the CPU alone or for
# another CUDA version; without it, the build of the default index serves, on CPUs and NVIDIA GPUs alike.
ARG TORCH_INDEX=""
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==2.13.*"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY search_spaces search_spaces
COPY models models
COPY workers workers
COPY server server
RUN pip install ".[workers]"

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home archsmith \
    && install -d -o archsmith -g archsmith /var/lib/archsmith /artifacts /data
COPY --from=build /opt/archsmith /opt/archsmith
COPY --chmod=755 docker/worker.sh /usr/local/bin/archsmith-cluster-worker
COPY docker/worker_health.py /usr/local/lib/archsmith/worker_health.py
ENV PATH=/opt/archsmith/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    ARCHSMITH_DATA_DIR=/var/lib/archsmith \
    ARCHSMITH_ARTIFACTS_URL=/artifacts \
    ARCHSMITH_DATA_ROOT=/data
USER archsmith
WORKDIR /var/lib/archsmith
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "/usr/local/lib/archsmith/worker_health.py"]
CMD ["archsmith", "worker"]
