"""A model server of one's own: it knows nothing of routing, keys or limits."""

import os

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
MODEL_TYPE = os.getenv("MODEL_TYPE", "embeddings")


class PredictRequest(BaseModel):
    text: str


@app.get("/health")
async def health():
    return {"status": "healthy", "model_type": MODEL_TYPE}


@app.post("/predict")
async def predict(request: PredictRequest):
    return {"model_type": MODEL_TYPE, "result": len(request.text)}
