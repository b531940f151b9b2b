"""The viewer: one static page that shows runs, plans, timelines and the KV stores.

The page is plain HTML, CSS and ES modules beside this file, as a browser gets them: nothing is
built and nothing fetched from elsewhere. What it shows it asks for under /v1, as any client can.

What does not live here: the routes that it asks (`runs.views`, `runs.prompts`, `cache_map` beside
this folder).
"""

from helium_jax.server.viewer.assets import VIEWER_PATHS, add_viewer

__all__ = ["VIEWER_PATHS", "add_viewer"]
