# The control plane: API, dashboard, migrations. It computes nothing, so PyTorch and Ray are not in here.
# Build from the root of the repository: docker build -f docker/server.Dockerfile -t archsmith-server .
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/archsmith
ENV PATH=/opt/archsmith/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY search_spaces search_spaces
COPY models models
COPY workers workers
COPY server server
RUN pip install .

FROM python:3.11-slim
# The folders belong to the user before a volume is mounted on them: a new volume takes that over.
RUN useradd --uid 10001 --create-home archsmith \
    && install -d -o archsmith -g archsmith /var/lib/archsmith /artifacts /data
COPY --from=build /opt/archsmith /opt/archsmith
ENV PATH=/opt/archsmith/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ARCHSMITH_DATA_DIR=/var/lib/archsmith \
    ARCHSMITH_ARTIFACTS_URL=/artifacts \
    ARCHSMITH_DATA_ROOT=/data
USER archsmith
WORKDIR /var/lib/archsmith
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["archsmith", "api", "--host", "0.0.0.0", "--port", "8000"]
