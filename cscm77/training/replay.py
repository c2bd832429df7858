"""A training step that a GPU records once, as a CUDA graph, and then replays.

These networks are so small that a GPU works less long than Python takes to tell it what to do.
"""

import os
import warnings

import torch

WARM_UP = 3  # steps, of a training like all others: libraries set themselves up, Adam its moments
WAITS = "called a synchronizing CUDA operation"  # torch's own words


class Replayed:
    """A step that is taken as it is a few times, then recorded, and from there on replayed.

    That is only on a GPU, on inputs of one shape, where the optimizer is a fused Adam and the step
    never waits for the device; the numbers are the same either way. What a step returns is good
    until the next. CSCM77_GRAPHS=0 in the environment turns it off: what a step reads beside
    inputs, networks, optimizer and random numbers, say a counter of steps, is recorded as it was.
    """

    def __init__(self, step, optimizer):
        self.step, self.optimizer = step, optimizer
        groups = optimizer.param_groups
        self.possible = (os.environ.get("CSCM77_GRAPHS", "1") != "0"
                         and all(group.get("fused") for group in groups)
                         and all(p.is_cuda for group in groups for p in group["params"]))
        self.steps, self.graph, self.inputs, self.outputs, self.settings = 0, None, None, None, None

    def _settings(self):
        """The optimizer's numbers, which a recording holds as they were."""
        return [[value for value in group.values() if isinstance(value, (int, float, tuple))]
                for group in self.optimizer.param_groups]

    def __call__(self, *inputs):
        """Take the step."""
        if not self.possible:
            return self.step(*inputs)
        self.steps += 1
        if self.steps < WARM_UP:
            return self.step(*inputs)
        if self.steps == WARM_UP:
            return self._watched(inputs)
        if self.graph is None or self.settings != self._settings():
            self._record(inputs)
        kinds, recorded = ([(x.shape, x.dtype) for x in some] for some in (inputs, self.inputs))
        if self.graph is None or kinds != recorded:
            return self.step(*inputs)
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.outputs

    def _watched(self, inputs):
        """Take the step, and see whether it waits for the device: then it cannot be recorded."""
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                return self.step(*inputs)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
                self.possible = not any(WAITS in str(warning.message) for warning in seen)

    def _record(self, inputs):
        """Record the step; nothing of it is carried out yet."""
        self.graph, self.inputs, self.settings = None, [x.clone() for x in inputs], self._settings()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        random_state, groups = torch.cuda.get_rng_state(), self.optimizer.param_groups
        for group in groups:  # a fused Adam asks for it, and does nothing else then
            group["capturable"] = True
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.outputs = self.step(*self.inputs)
            self.graph = graph
        except RuntimeError as reason:
            self.possible = False
            torch.cuda.set_stream(stream)
            _replace_generator(random_state)
            warnings.warn("the step could not be recorded as a CUDA graph, so it is slower: "
                          f"{reason}", RuntimeWarning, stacklevel=4)
        finally:
            for group in groups:
                group["capturable"] = False


def _replace_generator(random_state):
    """Free the global generator from a recording that broke off: it would draw no more."""
    generator = torch.Generator("cuda")
    generator.set_state(random_state)
    own = torch.cuda.default_generators[torch.cuda.current_device()]
    own.graphsafe_set_state(generator.graphsafe_get_state())
