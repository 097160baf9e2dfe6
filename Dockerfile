FROM python:3.11-slim
WORKDIR /sagan
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
# With runAsNonRoot, Kubernetes requires a numeric user.
RUN useradd --create-home --uid 1000 sagan && chown -R 1000 /sagan
USER 1000
ENTRYPOINT ["python", "main.py"]
