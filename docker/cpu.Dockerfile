# The API of nst-fast on a CPU: docker build -f docker/cpu.Dockerfile -t nst-fast:cpu .
FROM python:3.13-slim-trixie AS build
COPY pyproject.toml README.md LICENSE /src/
COPY nst_fast /src/nst_fast
# Without CUDA's gigabytes: PyTorch's own index, and ONNX Runtime's package for CPUs in place of the other.
RUN python -m venv /opt/nst-fast \
    && /opt/nst-fast/bin/pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu \
    && sed -i '/"onnxruntime-gpu\[/d; s/"onnxruntime>=\([0-9.]*\);[^"]*"/"onnxruntime>=\1"/' /src/pyproject.toml \
    && /opt/nst-fast/bin/pip install --no-cache-dir '/src[ui]'

FROM python:3.13-slim-trixie
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home nst-fast \
    && install --directory --owner=nst-fast /data /cache
COPY --from=build /opt/nst-fast /opt/nst-fast
ENV PATH=/opt/nst-fast/bin:$PATH NST_FAST_CACHE=/cache NUMBA_CACHE_DIR=/cache/numba PYTHONDONTWRITEBYTECODE=1
USER 10001
VOLUME ["/data", "/cache"]
EXPOSE 8765
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-c", "import urllib.error, urllib.request as r\ntry: r.urlopen('http://127.0.0.1:8765/api/options', timeout=5)\nexcept urllib.error.HTTPError as e: assert e.code == 401"]
ENTRYPOINT ["nst-fast"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8765", "--folder", "/data"]
