"""The settings of a training: how long, in which steps, with which optimiser and precision."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field, model_validator

from wsseg.config import Config

RESULT_NEUTRAL_FIELDS = frozenset({"num_workers", "checkpoint_every_s"})
"""Fields that change the speed or the safety of a training, never its result."""


class TrainingConfig(Config):
    """How a network is trained; the defaults suit a small pre-trained network and few images.

    One update of the weights uses ``batch_size * accumulate_steps`` items, whatever the number of
    processes.

    Example:
        >>> TrainingConfig(epochs=5, optimiser="sgd", momentum=0.9).epochs
        5
    """

    epochs: int = Field(20, ge=1, le=100_000, description="Passes over the training items.")
    max_steps: int | None = Field(
        None,
        ge=1,
        description="Updates after which training ends even within an epoch; null: no such limit. "
        "The learning-rate schedule ends with it.",
    )
    batch_size: int = Field(
        16,
        ge=1,
        le=65_536,
        description="Items per forward pass, over all processes together; their number must "
        "divide it.",
    )
    accumulate_steps: int = Field(
        1,
        ge=1,
        le=4096,
        description="Forward passes per update; gradients are averaged over them, so that a small "
        "memory can train with a large batch.",
    )
    optimiser: Literal["sgd", "adamw", "psa_poly"] = Field(
        "adamw",
        description="sgd, adamw, or psa_poly: SGD without momentum (`momentum` and `nesterov` are "
        "not used) under the poly schedule, the optimiser that PSA, IRN, SEAM and their "
        "successors really ran.",
    )
    lr: float = Field(
        1e-3, gt=0, le=100, description="Learning rate of the backbone at its highest point."
    )
    head_lr_factor: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="Learning rate of the new layers (the head) as a multiple of `lr`; 10 is usual "
        "for a pre-trained backbone with SGD.",
    )
    weight_decay: float = Field(1e-2, ge=0, le=10, description="Weight decay per unit of `lr`.")
    bias_rule: Literal["auto", "no_decay", "same", "double_lr"] = Field(
        "auto",
        description="Biases: no_decay (nor any other one-dimensional weight, such as those of "
        "norms), same as weights (IRN), or double_lr without decay (Caffe, PSA). auto: double_lr "
        "for psa_poly, else no_decay.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd; others do not use it.")
    nesterov: bool = Field(False, description="Nesterov's form of the momentum of sgd.")
    schedule: Literal["poly", "cosine", "constant"] = Field(
        "poly", description="How the learning rate falls after the warm-up, update by update."
    )
    poly_power: float = Field(
        0.9, gt=0, le=10, description="Exponent of the poly schedule (1 - t/T)^power."
    )
    warmup_frac: float = Field(
        0.0, ge=0, lt=1, description="Part of all updates during which the learning rate rises."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the forward pass (autocast). auto: bfloat16 where the "
        "processor or the GPU computes it natively, float16 on older NVIDIA GPUs, else float32.",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay per update of a moving average of the weights, which is then validated "
        "and kept instead of them; null: none. 0.99 suits hundreds of updates, 0.999 thousands.",
    )
    max_grad_norm: float | None = Field(
        None, gt=0, description="Largest L2 norm of the gradient; null: not clipped."
    )
    num_workers: int | Literal["auto"] = Field(
        "auto",
        description="Processes that load items, per training process; 0 loads in the training "
        "process. auto: one less than the cores, at most 8, none for tiny data.",
    )
    early_stop_patience_epochs: int | None = Field(
        None,
        ge=1,
        description="Stop after so many epochs without a better validation; null: never.",
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="Weights to keep: those of the best validated epoch, or the last ones. Where "
        "nothing is validated the last ones are kept.",
    )
    class_balanced_sampling: bool = Field(
        False,
        description="Draw items with replacement so that rare classes come as often as frequent "
        "ones.",
    )
    channels_last: bool = Field(
        True, description="Keep images as (N, H, W, C) in memory: faster convolutions."
    )
    checkpoint_every_s: float | None = Field(
        600.0,
        ge=0,
        description="Seconds between checkpoints within an epoch; null: only at its end.",
    )
    deterministic: bool = Field(
        False,
        description="On a GPU use repeatable operations only, which is slower. The CPU repeats "
        "its results anyway.",
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> TrainingConfig:
        if self.nesterov and self.optimiser == "sgd" and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0; momentum is 0. Set nesterov=false.")
        if self.optimiser == "psa_poly" and (self.schedule != "poly" or self.warmup_frac > 0):
            raise ValueError(
                "optimiser psa_poly needs schedule=poly and warmup_frac=0, but they are "
                f"{self.schedule} and {self.warmup_frac}. Choose optimiser=sgd with momentum=0 "
                "for another schedule."
            )
        if isinstance(self.num_workers, int) and not 0 <= self.num_workers <= 256:
            raise ValueError(f"num_workers is {self.num_workers}; allowed are auto and 0 to 256.")
        return self

    def result_fingerprint(self, *others: str) -> str:
        """Hash everything in here that can change the trained weights.

        Args:
            others: What else they depend on: the data, the network, the seed.

        Returns:
            64 hexadecimal digits.

        Example:
            >>> fast, slow = TrainingConfig(num_workers=8), TrainingConfig(num_workers=0)
            >>> fast.result_fingerprint("data") == slow.result_fingerprint("data")
            True
        """
        settings = self.model_dump_json(exclude=set(RESULT_NEUTRAL_FIELDS))
        return hashlib.sha256("\0".join([settings, *others]).encode()).hexdigest()
