"""What a stage uses: time, memory, tokens. For MLflow and the terminal, never for an output, whose
hash would change.
"""

import resource
import sys
import time


class Usage:
    def __init__(self) -> None:
        self.start, self.tokens = time.perf_counter(), 0

    def watch(self, model) -> None:
        """Count the tokens, padding included, that enter a model from now on; read from shapes, so
        nothing waits.
        """

        def count(_module, _inputs, embedded) -> None:
            self.tokens += embedded.shape[:-1].numel()

        model.get_input_embeddings().register_forward_hook(count)

    def figures(self) -> dict[str, float]:
        """Return this process's seconds, its peak memory in MB and, where a model ran, tokens and
        tokens per second.
        """
        unit = 1 if sys.platform == "darwin" else 1024
        found = {
            "seconds": time.perf_counter() - self.start,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
        }
        torch = sys.modules.get("torch")
        if torch and torch.cuda.is_initialized():
            found["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
        if self.tokens:
            found |= {
                "tokens": float(self.tokens),
                "tokens_per_second": self.tokens / found["seconds"],
            }
        return found

    def __str__(self) -> str:
        found = self.figures()
        shown = [f"{found['seconds']:.1f} s", f"peak memory {found['peak_memory_mb']:,.0f} MB"]
        if "peak_gpu_memory_mb" in found:
            shown.append(f"peak GPU memory {found['peak_gpu_memory_mb']:,.0f} MB")
        if self.tokens:
            shown.append(f"{found['tokens_per_second']:,.0f} tokens/s")
        return ", ".join(shown)
