# The server in a container: docker build -t adaptthink . && docker run -p 127.0.0.1:8000:8000 adaptthink
# With a model of your own: docker run -v /path/to/models:/models -p 127.0.0.1:8000:8000 adaptthink /models/mine
FROM python:3.12-slim

# An index with smaller wheels of torch, such as PyTorch's own for processors.
ARG PIP_EXTRA_INDEX_URL

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt '.[serve]' && useradd --create-home adaptthink

USER adaptthink
WORKDIR /home/adaptthink
RUN mkdir .cache
# Inside a container 127.0.0.1 cannot be reached from outside; what is published decides who can.
ENV ADAPTTHINK_HOST=0.0.0.0 ADAPTTHINK_PORT=8000
EXPOSE 8000
HEALTHCHECK --start-period=2m CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["adaptthink", "serve"]
CMD ["tiny"]
