"""Where metrics go besides `/metrics`. Keys and tokens arrive in the environment, under the libraries' own names."""

from finetune_contract.base import ContractModel


class SwanLabConfig(ContractModel):
    """SwanLab; the API key arrives as SWANLAB_API_KEY."""

    project: str
    workspace: str | None = None
    host: str | None = None
    """Base URL of a self-hosted SwanLab's API; None: the public one."""
    online: bool
    """False: the run is written into the output folder, for `swanlab sync`."""


class TensorBoardConfig(ContractModel):
    """TensorBoard's event files in the output folder."""


class WandbConfig(ContractModel):
    """Weights & Biases; the API key arrives as WANDB_API_KEY."""

    project: str
    entity: str | None = None
    host: str | None = None
    """Base URL of a self-hosted server; None: the public one."""
    online: bool
    """False: the run is written into the output folder, for `wandb sync`."""


class MlflowConfig(ContractModel):
    """MLflow; a token, if the server wants one, arrives as MLFLOW_TRACKING_TOKEN."""

    tracking_uri: str
    experiment: str


class TrackingConfig(ContractModel):
    """The trackers of a run; all of them may be in use at once."""

    swanlab: SwanLabConfig | None = None
    tensorboard: TensorBoardConfig | None = None
    wandb: WandbConfig | None = None
    mlflow: MlflowConfig | None = None
