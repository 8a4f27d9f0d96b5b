FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY upsert_svc ./upsert_svc
COPY sql ./sql
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
COPY requirements.lock /
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --require-hashes --requirement /requirements.lock
COPY --from=build /wheels /wheels
RUN /venv/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

RUN useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin upsert
USER upsert
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --retries=10 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
CMD ["upsert-svc", "serve", "--host", "0.0.0.0"]
