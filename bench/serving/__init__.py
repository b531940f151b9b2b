"""Parts of the benchmarks over HTTP: traffic, a client, figures, and a server process.

Not here: what is measured and recorded (`bench.bench_serving`, `bench.soak`).
"""
