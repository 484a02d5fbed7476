"""What the routes take and give: validation of requests, and the OpenAPI document of both.

Answers are written from arrays by orjson, past these models; the tests hold the two together.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from app.bundle import Manifest, Role

Sentences = Annotated[list[str], Field(min_length=1, fail_fast=True)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
EncodingFormat = Annotated[Literal["float", "base64"], Field(description="base64: the float32 values, little-endian.")]
ModelName = Annotated[str, Field(description="Who answers: the student or the teacher.")]
Truncate = Annotated[bool, Field(description="Cut sentences at the model's limit; if false, they are an error.")]

SENTENCES: list[JsonValue] = ["A man is playing a guitar.", "Someone plays an instrument."]
EXACTLY_ONE: list[JsonValue] = [{"required": ["sentences"]}, {"required": ["pairs"]}]
PAIRS = [["A man is playing a guitar.", "Someone plays an instrument."]]


class Content(BaseModel):
    """A request's content: nothing is converted, and nothing unknown is passed over."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class EncodeRequest(Content):
    """Sentences to encode."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"sentences": SENTENCES}]})

    sentences: str | Sentences
    model: ModelName = "student"
    truncate: Truncate = True
    encoding_format: EncodingFormat = "float"


class Inputs(Content):
    """Sentences or pairs: exactly one of both."""

    model_config = ConfigDict(json_schema_extra={"oneOf": EXACTLY_ONE})

    sentences: str | Sentences = []
    pairs: Annotated[
        list[tuple[str, str]],
        Field(
            min_length=1,
            fail_fast=True,
            description="For tasks that compare two sentences.",
        ),
    ] = []

    @model_validator(mode="after")
    def _exactly_one(self) -> "Inputs":
        if len(self.model_fields_set & {"sentences", "pairs"}) != 1:
            raise ValueError("give either `sentences` or `pairs`")
        return self


class ClassifyRequest(Inputs):
    """Sentences, or pairs of sentences, as the task takes."""

    model: ModelName = "student"
    truncate: Truncate = True


class CompareRequest(Inputs):
    """Inputs for student and teacher alike."""

    model_config = ConfigDict(json_schema_extra={"oneOf": EXACTLY_ONE, "examples": [{"sentences": SENTENCES}]})

    task: Annotated[str | None, Field(description="Compare this task's answers; without it, vectors.")] = None


class EmbeddingsRequest(Content):
    """The OpenAI shape: text, or token ids of the model's own tokenizer with its special tokens."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "student", "input": SENTENCES}]})

    model: ModelName
    input: Annotated[
        str | Sentences | Ids | Annotated[list[Ids], Field(min_length=1, fail_fast=True)],
        Field(description="Text, texts, token ids, or several rows of token ids."),
    ]
    encoding_format: EncodingFormat = "float"
    dimensions: Annotated[int | None, Field(ge=1, description="Accepted if it is the model's own.")] = None
    user: Annotated[str | None, Field(description="Accepted and not used.")] = None


class Usage(BaseModel):
    """What a request cost."""

    sentences: int
    tokens: Annotated[int, Field(description="As the model saw them, special tokens included.")]


class EncodeResponse(BaseModel):
    """One vector per sentence, in their order."""

    model: Role
    space: Annotated[str, Field(description="Vectors may be mixed in one index only if their space is equal.")]
    dimensions: int
    embeddings: list[list[float]] | list[str]
    truncated: Annotated[list[int], Field(description="Indices of sentences that were cut off.")]
    usage: Usage


class Label(BaseModel):
    """A classifier's answer."""

    label: str
    score: Annotated[float, Field(description="The score of `label`.")]
    scores: dict[str, float]


class Value(BaseModel):
    """A regressor's answer."""

    value: float


class ClassifyResponse(BaseModel):
    """One prediction per input, in their order."""

    task: str
    model: Role
    predictions: list[Label] | list[Value]
    truncated: list[int]
    usage: Usage


class ComparedVectors(BaseModel):
    """How close the two vectors of one sentence are."""

    cosine: float


class ComparedAnswers(BaseModel):
    """What both said about one input."""

    student: Label | Value
    teacher: Label | Value
    agree: Annotated[bool | None, Field(description="Whether the labels are equal; null for a regression task.")]


class Timing(BaseModel):
    """How long one model took for the whole request."""

    precision: Literal["float32", "int8"]
    milliseconds: float
    milliseconds_per_input: float


class CompareResponse(BaseModel):
    """Student beside teacher, one after the other, through the same code and on the same clock."""

    task: str | None
    results: list[ComparedVectors] | list[ComparedAnswers]
    student: Timing
    teacher: Timing
    threads: Annotated[int, Field(description="Batches in flight of each, at most.")]
    speed_up: Annotated[float, Field(description="The teacher's time over the student's.")]
    truncated: list[int]


class Embedding(BaseModel):
    """One vector, the OpenAI shape."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """What a request cost, the OpenAI shape."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """Vectors, the OpenAI shape."""

    object: Literal["list"]
    data: list[Embedding]
    model: Role
    usage: EmbeddingsUsage


class ModelCard(BaseModel):
    """A model, the OpenAI shape."""

    id: Role
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "understudy"


class ModelCards(BaseModel):
    """The models that /v1/embeddings takes."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class LoadedModel(BaseModel):
    """A loaded encoder."""

    model: Annotated[Role, Field(description="The name that requests use.")]
    manifest: Manifest


class LoadedModels(BaseModel):
    """The loaded encoders."""

    models: list[LoadedModel]


class LoadedTask(BaseModel):
    """A loaded task, for one model."""

    task: Annotated[str, Field(description="The name in /classify/{task}.")]
    model: Role
    inputs: Annotated[Literal["sentences", "pairs"], Field(description="Which of both /classify takes.")]
    labels: list[str]
    manifest: Manifest


class LoadedTasks(BaseModel):
    """The loaded tasks."""

    tasks: list[LoadedTask]


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


class Reloaded(BaseModel):
    """What serves now."""

    bundles: list[str]


class ErrorDetail(BaseModel):
    """What went wrong."""

    type: str
    message: str
    param: Annotated[str | None, Field(description="The part of the request that is wrong.")]


class ErrorBody(BaseModel):
    """The one body of every error."""

    error: ErrorDetail


def explain(problems: list[Any]) -> tuple[str, str | None]:
    """Turn pydantic's problems into a message and a parameter for the client; no content is repeated."""
    # Of a union's alternatives, the client meant the one whose type fits, or else the one that got furthest.
    fitting = [problem for problem in problems if not problem["type"].endswith("_type")] or problems
    depth = max(len(problem["loc"]) for problem in fitting)
    furthest = [problem for problem in fitting if len(problem["loc"]) == depth]
    if furthest[0]["type"] == "value_error":
        return str(furthest[0]["ctx"]["error"]), None
    path = ".".join(str(part) for part in furthest[0]["loc"] if _is_place(part))
    wishes = dict.fromkeys(problem["msg"] for problem in furthest)
    return f"{path or 'the body'}: {', or: '.join(wishes)}", path or None


def _is_place(part: int | str) -> bool:
    """Whether a part of a location is an index or may be a field; pydantic puts the names of union members between."""
    return isinstance(part, int) or (len(part) <= 64 and part.isidentifier() and part not in {"str", "int"})
