"""How near the stand-in digits come to MNIST: what a judge that learnt the one reads in the other.

Takes some minutes without a GPU: two judges are trained, each on 60,000 digits.
"""

import sys
import time
from functools import partial

import torch

from cscm77.data.loaders import Digits
from cscm77.data.strokes import stand_in_digits
from cscm77.measure.judge import EPOCHS, Judge, train_judge
from cscm77.studies.results_file import exit_status, image_parser, load_images


def shares_read(learnt_from, tested_on):
    """The shares of `Digits`, of 0 to 9 and of all, that a judge which learnt from others reads."""
    judge = Judge().to(learnt_from.pixels.device)
    train_judge(judge, learnt_from)
    labels = tested_on.labels.cpu()
    right = (judge.read(tested_on.images).labels == labels).double()
    return [right[labels == digit].mean().item() for digit in range(10)] + [right.mean().item()]


def main(arguments=None):
    """Run the command line; returns the exit status."""
    return exit_status(partial(run, parse(arguments)), "what was measured is not kept")


def parse(arguments):
    """Read the command line."""
    return image_parser("python -m cscm77.studies.stand_ins", run.__doc__).parse_args(arguments)


def run(options):
    """Measure the stand-in digits against MNIST."""
    loaders = load_images(options, num_val=0, source="mnist")
    mnist, start = (loaders.train.dataset, loaders.test.dataset), time.perf_counter()
    n, device = options.images, mnist[0].pixels.device
    drawn = stand_in_digits(device=device)
    pixels = torch.cat([pixels for pixels, _ in drawn])
    print(f"drawn: {len(pixels):,} digits, seed 0, {time.perf_counter() - start:.1f} s")
    print(f"equal to another: {len(pixels) - len(pixels.unique(dim=0))}")
    sd, mean = torch.std_mean(drawn[0][0] / 255, correction=0)
    print(f"pixel mean, sd: {mean:.4f}, {sd:.4f} (MNIST 0.1307, 0.3081)")
    stand_ins = [Digits(x[:n], labels[:n], "stand-in digits", device) for x, labels in drawn]
    print(f"read right by judges of {EPOCHS} epochs, seed 0:")
    print("learnt from, tested on" + "".join(f"{digit:>7}" for digit in [*range(10), "all"]))
    for way, learnt_from, tested_on in (("stand-ins, MNIST", stand_ins[0], mnist[1]),
                                        ("MNIST, stand-ins", mnist[0], stand_ins[1])):
        *digits, total = shares_read(learnt_from, tested_on)
        print(f"{way:22}" + "".join(f"{share:7.1%}" for share in digits) + f"{total:7.2%}")


if __name__ == "__main__":
    sys.exit(main())
