"""LeNet-5 in plain torch, with the layer names of the paper."""

import torch
from torch import Tensor, nn

C1_PADDING = {32: 0, 28: 2}  # input_size -> padding of c1; both leave c1 with 28x28 maps


class LeNet(nn.Module):
    """LeNet-5 with ReLU, average pooling and a linear output layer.

    The paper's scaled tanh, trainable subsampling, sparse c3 and RBF output are replaced by
    their usual modern forms; layer names, widths and map sizes are the paper's.

    Shapes:
        input:  (N, 1, S, S) float, pixels in 0..1, S = input_size
        output: (N, 10) logits

    LeCun et al. 1998, "Gradient-based learning applied to document recognition", sec. II.B.
    """

    def __init__(
        self, *, input_size: int = 32, batch_norm: bool = False, relu_head: bool = True
    ) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            input_size: Side of the square input in pixels: 32 as in the paper (c1 unpadded), or
                28 (c1 padded by 2).
            batch_norm: Put a batch norm (n1, n3, n5) between c1, c3, c5 and their ReLU.
            relu_head: Keep the ReLU after c5 and f6; some published checkpoints have none there.

        Raises:
            ValueError: input_size is neither 32 nor 28.
        """
        super().__init__()
        if input_size not in C1_PADDING:
            raise ValueError(
                f"input_size={input_size} does not fit LeNet-5\n"
                "  fix: pass input_size=32 or input_size=28, and resize the images to it"
            )
        self.c1 = nn.Conv2d(1, 6, 5, padding=C1_PADDING[input_size])
        self.n1 = _norm(6, batch_norm)
        self.r1 = nn.ReLU()
        self.s2 = nn.AvgPool2d(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.n3 = _norm(16, batch_norm)
        self.r3 = nn.ReLU()
        self.s4 = nn.AvgPool2d(2)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.n5 = _norm(120, batch_norm)
        self.r5 = nn.ReLU() if relu_head else nn.Identity()
        self.f6 = nn.Linear(120, 84)
        self.r6 = nn.ReLU() if relu_head else nn.Identity()
        self.output = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, S, S) to logits (N, 10)."""
        x = self.s2(self.r1(self.n1(self.c1(x))))
        x = self.s4(self.r3(self.n3(self.c3(x))))
        x = torch.flatten(self.r5(self.n5(self.c5(x))), 1)
        logits: Tensor = self.output(self.r6(self.f6(x)))
        return logits


def lenet_digits() -> LeNet:
    """The network that `models/weights/lenet_digits.safetensors` fits: 32x32, batch norm."""
    return LeNet(batch_norm=True)


def _norm(channels: int, wanted: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if wanted else nn.Identity()
