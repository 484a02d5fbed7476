"""A sentence encoder behind FastAPI as most people write it. It runs in a venv of its own, and imports nothing of ours.

python plain_server.py TEACHER_FOLDER PORT
"""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(sys.argv[1], device="cpu")


class Sentences(BaseModel):
    """What a client sends."""

    sentences: list[str]


@app.post("/encode")
def encode(body: Sentences) -> dict[str, list[list[float]]]:
    """Encode on one of FastAPI's threads."""
    return {"embeddings": model.encode(body.sentences).tolist()}


@app.get("/health")
def health() -> dict[str, str]:
    """Answer once the model is loaded."""
    return {"status": "ok"}


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
