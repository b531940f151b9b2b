"""helium-jax: language models in pure JAX, agentic workflows as query plans."""
