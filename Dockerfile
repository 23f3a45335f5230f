# Two images from one file:   docker build --target operator .   and   docker build --target trainer .
# The base brings Python 3.11 or newer with venv, and apt-get; where its python3 lies does not matter.
# Every step of a target stands in the target's own chain, so that whatever prunes a cache keeps them with the image.
ARG BASE_IMAGE=python:3.13-slim-bookworm

# The packages go into /opt/venv, which has no pip of its own; the project lies in /app. The user that pods run as gets
# a name, since some libraries ask for one.
FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN python3 -m venv --without-pip /opt/venv \
 && python -c "import site; open(site.getsitepackages()[0] + '/app.pth', 'w').write('/app\n')" \
 && echo 'finetune:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'finetune:x:65532:' >> /etc/group

# Packages depend on the constraints alone, so a change of sources leaves this layer as it is. Bytecode is compiled here,
# since nobody may write it later, and not checked against its source at every start.
FROM base AS operator-packages
COPY constraints/operator.txt /constraints/
RUN python3 -m venv /tmp/pip \
 && /tmp/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps \
      --only-binary :all: -r /constraints/operator.txt \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib \
 && rm -rf /tmp/pip

FROM operator-packages AS operator
COPY trainer/finetune_contract /app/finetune_contract
COPY operator/finetune_operator /app/finetune_operator
RUN chmod -R a+rX /app && python -m compileall -q --invalidation-mode unchecked-hash /app
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Qwen3FineTune operator" \
      org.opencontainers.image.description="Turns Qwen3FineTune resources into fine-tuned adapters" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
USER 65532:65532
EXPOSE 8080 9090
ENTRYPOINT ["python", "-m", "finetune_operator"]
CMD ["--settings", "/etc/finetune/settings.yaml"]

# Triton and torch.compile call a compiler while they train; Python's headers come with some bases and not with others.
FROM base AS compiler
RUN headers=$(python3 -c "import os, sysconfig; print(os.path.exists(sysconfig.get_path('include') + '/Python.h'))") \
 && if [ "$headers" = True ]; then set -- g++; else set -- g++ python3-dev; fi \
 && apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" \
 && rm -rf /var/lib/apt/lists/*

# compileall's status 1 means templates in some packages that are no Python yet.
FROM compiler AS trainer-packages
COPY constraints/trainer.txt /constraints/
RUN python3 -m venv /tmp/pip \
 && grep -v '^deepspeed==' /constraints/trainer.txt > /tmp/others.txt \
 && /tmp/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps -r /tmp/others.txt \
 && { python -W ignore -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || test $? -eq 1; } \
 && rm -rf /tmp/pip /tmp/others.txt
# DeepSpeed is a source package whose build asks for torch. It compiles nothing here, and nothing on a CPU later.
RUN python3 -m venv /tmp/pip \
 && grep '^deepspeed==' /constraints/trainer.txt > /tmp/deepspeed.txt \
 && DS_BUILD_OPS=0 /tmp/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps \
      --no-build-isolation --use-pep517 -r /tmp/deepspeed.txt \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib/python3*/site-packages/deepspeed \
 && rm -rf /tmp/pip /tmp/deepspeed.txt

FROM trainer-packages AS trainer
COPY trainer/finetune_contract /app/finetune_contract
COPY trainer/finetune_trainer /app/finetune_trainer
RUN chmod -R a+rX /app && python -m compileall -q --invalidation-mode unchecked-hash /app
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Qwen3FineTune trainer" \
      org.opencontainers.image.description="Prepares data, trains and exports one attempt of a fine-tuning run" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
USER 65532:65532
EXPOSE 29500 29501
CMD ["python", "-m", "finetune_trainer.launch", "/config/run.json"]
