"""What an Every Eval Ever export must hold, written down apart from the code that makes it (schema 0.3.0)."""

from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt, TypeAdapter
from typing_extensions import TypedDict

Details = dict[str, str]
Number = StrictFloat | StrictInt
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
SamplesPath = Annotated[str, Field(pattern=rf"^data/[^/]+/[^/]+/[^/]+/{_UUID}_samples\.jsonl$")]


class _Strict(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]


class Source(_Strict):
    source_name: NotRequired[str]
    source_type: Literal["documentation", "evaluation_run"]
    source_organization_name: str
    evaluator_relationship: Literal["first_party", "third_party", "collaborative", "other"]
    additional_details: NotRequired[Details]


class Versioned(_Strict):
    name: str
    version: str


class ModelDetails(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]
    deployment_type: Required[Literal["self_deployed", "externally_managed", "unknown"]]
    model_availability: Required[Literal["open_weights", "closed_weights", "unknown"]]


class Model(_Strict):
    name: str
    id: str
    developer: NotRequired[str]
    inference_engine: NotRequired[Versioned]
    additional_details: ModelDetails


class HubData(_Strict):
    dataset_name: str
    source_type: Literal["hf_dataset"]
    hf_repo: str
    samples_number: NotRequired[StrictInt]
    additional_details: NotRequired[Details]


class OtherData(_Strict):
    dataset_name: str
    source_type: Literal["other"]
    additional_details: NotRequired[Details]


class Metric(_Strict):
    evaluation_description: NotRequired[str]
    metric_id: NotRequired[str]
    metric_name: NotRequired[str]
    metric_kind: NotRequired[str]
    metric_unit: NotRequired[str]
    metric_parameters: NotRequired[dict[str, str | Number | StrictBool | None]]
    lower_is_better: StrictBool
    score_type: Literal["continuous"]
    min_score: Number
    max_score: Number


class Interval(_Strict):
    lower: Number
    upper: Number
    confidence_level: NotRequired[Annotated[Number, Field(ge=0, le=1)]]
    method: NotRequired[str]


class Uncertainty(_Strict):
    confidence_interval: NotRequired[Interval]
    num_samples: NotRequired[StrictInt]


class Score(_Strict):
    score: Number
    details: NotRequired[Details]
    uncertainty: NotRequired[Uncertainty]


class GenerationArguments(_Strict):
    temperature: NotRequired[Number | None]
    top_p: NotRequired[Number | None]
    top_k: NotRequired[Number | None]
    max_tokens: NotRequired[Annotated[StrictInt, Field(ge=1)]]
    prompt_template: NotRequired[str]


class Generation(_Strict):
    generation_args: NotRequired[GenerationArguments]
    additional_details: NotRequired[Details]


class Evaluation(_Strict):
    evaluation_result_id: NotRequired[str]
    evaluation_name: str
    source_data: Annotated[HubData | OtherData, Field(discriminator="source_type")]
    metric_config: Metric
    score_details: Score
    generation_config: NotRequired[Generation]


class SampleFileReference(_Strict):
    format: Literal["jsonl"]
    file_path: SamplesPath
    hash_algorithm: NotRequired[Literal["sha256", "md5"]]
    checksum: NotRequired[str]
    total_rows: NotRequired[StrictInt]
    additional_details: NotRequired[Details]


class Run(_Strict):
    schema_version: Literal["0.3.0"]
    evaluation_id: str
    evaluation_timestamp: NotRequired[Annotated[str, Field(pattern=r"^\d+$")]]
    retrieved_timestamp: Annotated[str, Field(pattern=r"^\d+$")]
    source_metadata: Source
    eval_library: Versioned
    model_info: Model
    evaluation_results: list[Evaluation]
    detailed_evaluation_results: NotRequired[SampleFileReference]


class Input(_Strict):
    raw: str
    reference: list[str]
    choices: NotRequired[list[str] | None]


class Output(_Strict):
    raw: list[str]


class Attribution(_Strict):
    turn_idx: Literal[0]
    source: Literal["output.raw"]
    extracted_value: str
    extraction_method: str
    is_terminal: StrictBool


class SampleScore(_Strict):
    score: Number
    is_correct: StrictBool


class Tokens(_Strict):
    input_tokens: Annotated[StrictInt, Field(ge=0)]
    output_tokens: Annotated[StrictInt, Field(ge=0)]
    total_tokens: Annotated[StrictInt, Field(ge=0)]


class Line(_Strict):
    schema_version: Literal["0.3.0"]
    evaluation_id: str
    model_id: str
    evaluation_name: str
    evaluation_result_id: NotRequired[str]
    sample_id: str
    sample_hash: NotRequired[str | None]
    interaction_type: Literal["single_turn"]
    input: Input
    output: Output
    messages: None
    answer_attribution: list[Attribution]
    evaluation: SampleScore
    token_usage: NotRequired[Tokens | None]
    metadata: NotRequired[Details | None]


RUN: TypeAdapter[Any] = TypeAdapter(Run)
LINE: TypeAdapter[Any] = TypeAdapter(Line)
