# The API of nst-fast on NVIDIA GPUs: docker build -f docker/cuda.Dockerfile -t nst-fast:cuda .
# CUDA, cuDNN and cuRAND come with the wheels; of the host there must be the driver and the container toolkit.
FROM python:3.13-slim-trixie AS build
COPY pyproject.toml README.md LICENSE /src/
COPY nst_fast /src/nst_fast
RUN python -m venv /opt/nst-fast \
    && /opt/nst-fast/bin/pip install --no-cache-dir '/src[ui]'

FROM python:3.13-slim-trixie
# Triton compiles its launcher with a C compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home nst-fast \
    && install --directory --owner=nst-fast /data /cache
COPY --from=build /opt/nst-fast /opt/nst-fast
ENV PATH=/opt/nst-fast/bin:$PATH NST_FAST_CACHE=/cache TRITON_CACHE_DIR=/cache/triton NUMBA_CACHE_DIR=/cache/numba \
    PYTHONDONTWRITEBYTECODE=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
VOLUME ["/data", "/cache"]
EXPOSE 8765
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-c", "import urllib.error, urllib.request as r\ntry: r.urlopen('http://127.0.0.1:8765/api/options', timeout=5)\nexcept urllib.error.HTTPError as e: assert e.code == 401"]
ENTRYPOINT ["nst-fast"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8765", "--folder", "/data"]
