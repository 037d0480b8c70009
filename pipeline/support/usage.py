"""What a stage uses: time, memory, tokens. Never part of an output, whose hash would change."""

import resource
import sys
import time


class Usage:
    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.tokens = 0

    def watch(self, model) -> None:
        """Count the tokens, padding included, that enter a model from now on, by their shapes."""

        def count(_module, _inputs, embedded) -> None:
            self.tokens += embedded.shape[:-1].numel()

        model.get_input_embeddings().register_forward_hook(count)

    def figures(self) -> dict[str, float]:
        """Return seconds, peak memory (MB) and, where a model ran, tokens and tokens per second."""
        seconds = time.perf_counter() - self.start
        unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        figures = {"seconds": seconds, "peak_memory_mb": peak}
        torch = sys.modules.get("torch")
        if torch and torch.cuda.is_initialized():
            figures["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
        if self.tokens:
            figures |= {"tokens": float(self.tokens), "tokens_per_second": self.tokens / seconds}
        return figures

    def __str__(self) -> str:
        forms = {
            "seconds": "{:.1f} s",
            "peak_memory_mb": "peak memory {:,.0f} MB",
            "peak_gpu_memory_mb": "peak GPU memory {:,.0f} MB",
            "tokens_per_second": "{:,.0f} tokens/s",
        }
        figures = self.figures()
        return ", ".join(forms[name].format(figures[name]) for name in forms if name in figures)
