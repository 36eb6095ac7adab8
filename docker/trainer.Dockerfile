# `controlset train` and `evaluate` on one GPU machine or many. Build with `make image`.
#
#   docker run --gpus all --ipc host -v /data:/data controlset-trainer train --data gs://bucket/set ...
#   docker run --gpus all --ipc host --entrypoint torchrun controlset-trainer --nproc-per-node 8 -m -- controlset train ...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
ARG EXTRAS=optimizers,quality,aws,azure,gcp
COPY docker/install.sh requirements.lock dist/*.whl /build/
RUN UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1 /build/install.sh /build/controlset-*.whl /build/requirements.lock /opt/controlset "${EXTRAS}" \
 && useradd --create-home --uid 1000 trainer
ENV PATH=/opt/controlset/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /home/trainer
ENTRYPOINT ["controlset"]
CMD ["--help"]
