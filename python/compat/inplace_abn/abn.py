"""The modules, as subclasses of iabn's, with the original's three generations of arguments."""

from torch import Tensor

import iabn
from inplace_abn import functions


class ABN(iabn.ABN):
    """BatchNorm followed by the activation, not in place. gamma is the weight itself, as in BatchNorm.

    Also accepted: the order without track_running_stats (a str in its place), activation="none" for the identity, and
    `slope` for activation_param. InPlaceABNSync takes `group` last.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str = "leaky_relu",
        activation_param: float = 0.01,
        group=None,
        *,
        slope: float | None = None,
        **options,
    ):
        if isinstance(track_running_stats, str):  # the older order: what follows sits one place earlier
            if not isinstance(activation, str):
                if not isinstance(activation_param, (int, float)):
                    group = activation_param
                activation_param = activation
            activation, track_running_stats = track_running_stats, True
        if slope is not None:
            activation_param = slope
        if isinstance(self, iabn.InPlaceABN):
            options.setdefault("gamma", "legacy")
        if group is not None:
            options["group"] = group
        activation = functions.activation_name(activation)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, activation, activation_param, **options
        )

    # Programs set it after construction, to "none" as well.
    @property
    def activation(self) -> str:
        return self._activation

    @activation.setter
    def activation(self, name: str) -> None:
        self._activation = functions.activation_name(name)


class InPlaceABN(ABN, iabn.InPlaceABN):
    """BatchNorm and activation in place: forward overwrites its input. gamma is |weight| + eps.

    activation_param 0 trains as BatchNorm + ReLU, not in place, with one warning.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...]; returns x, overwritten."""
        batch_statistics = self.training or self.running_mean is None
        if not (batch_statistics and functions.is_slope_zero(self.activation, self.activation_param)):
            return super().forward(x)
        self._check_input(x)
        return functions.batch_norm_relu(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.momentum,
            self.eps,
            self.gamma,
            self.num_batches_tracked,
        )


class InPlaceABNSync(InPlaceABN, iabn.InPlaceABNSync):
    """InPlaceABN with statistics over all processes of `group` (None: the default group, or no group at all)."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...]; returns x, overwritten."""
        if self.training and functions.is_slope_zero(self.activation, self.activation_param):
            functions.check_slope_zero_alone(self.group)
        return super().forward(x)
