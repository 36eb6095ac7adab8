# Launcher of the flex template: the worker image and Google's template launcher. Built by build.sh.
ARG WORKER
ARG LAUNCHER
# hadolint ignore=DL3006
FROM ${LAUNCHER} AS launcher

# hadolint ignore=DL3006
FROM ${WORKER}
ARG WORKER
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
COPY docker/flex/main.py /opt/flex/main.py
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/flex/main.py \
    CONTROLSET_WORKER_IMAGE=${WORKER}
ENTRYPOINT ["/opt/google/dataflow/python_template_launcher"]
