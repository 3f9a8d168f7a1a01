"""Cross-entropy of a linear head whose logits are never stored: loss and gradients in less memory and less time.

    z_iv = softcap * tanh((scale * e_i . c_v + b_v) / softcap)
    lse_i = log sum_v exp z_iv     nll_i = lse_i - z_{i, y_i}
    dZ_iv = exp(z_iv - lse_i) (dnll_i + dlse_i) - [v = y_i] dnll_i     dE = dZ C     dC = dZ^T E

On CUDA, Triton kernels make tiles of logits and use them up in registers.  Forward, one matrix product: a program
takes a block of tokens over a slice of the vocabulary and writes one maximum and one sum a token; nobody waits for a
lock.  Exact backward, three more and a little: chunk by chunk of the vocabulary, dZ is made from float32 logits and
rounded once, and both gradients are made from it by cuBLAS, so that the logits are computed again only once for the
two; ``plan`` finds room for the chunk and for the float32 sums of dE inside the gradients themselves.  Filtered
backward (``filter_eps``), 1 + 3 s with s the share of blocks that is kept: what has next to no probability is known
from the forward and is not computed again; ``filtered`` states its bound.

What it can cost, for 8192 tokens, width 2304 and 256000 entries in bfloat16: a product is 9.7 TFLOP, on an H100 about
12 ms.  The forward is one; the plan of the backward has 3.14, the logits once more and both gradients, and moves 29 GB,
10 ms of traffic of which a good part passes while something is computed: five quarters of four products are within
reach.  For 16384 x 576 x 49152 they are not: dC is hardly larger than the sums of dE, so that the backward has four
products, in narrow chunks, and a product of this width computes little for each number that it moves.
``bench/cross_entropy.py`` prints what a plan is predicted to cost beside what it does.

On CPU the loss is ``linear_log_probability``'s, in float32 blocks; other devices get ``torch.compile`` of the plain
formula.  Every way is deterministic: no sum depends on the order in which programs run.

Paper: Cut Your Losses in Large-Vocabulary Language Models (Wijmans et al., 2025), arXiv 2411.09009, algorithms 1-4.
Code: apple/ml-cross-entropy.
Tags: learn, loss, kernel, language-model.
Differs: no locks and no sorting of the vocabulary; one recomputation serves both gradients; a filter that knows what it
    drops before computing it, chooses by token, has a bound and is off unless asked for (the released one is on, and
    recomputes every tile); float32 sums of dE; a bias counts once whatever the width; targets are checked; all ignored
    gives 0 with zero gradients under every reduction (there nan under mean).
See: ``linear_log_probability``, what ``TokenView.logp`` asks, which is the negative of this on CUDA.
"""

from palimpsest.kernels.cut_cross_entropy.function import by_triton, linear_cross_entropy, negative_log_probability

__all__ = ["METHOD", "by_triton", "linear_cross_entropy", "negative_log_probability"]

METHOD = linear_cross_entropy
