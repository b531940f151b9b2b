"""Runs the Python and plan blocks of a Markdown file, in order, in one folder of their own.

    python tools/run_readme.py README.md

A `python` block is a program; a `yaml` or `json` block whose first line is a comment naming a file
(`# plan.yaml`) is written to that file; `console` blocks are for people and are not run.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> int:
    text = Path(sys.argv[1]).read_text()
    num_run = 0
    with tempfile.TemporaryDirectory() as folder:
        for language, body in _BLOCK.findall(text):
            first = body.split("\n", 1)[0]
            if language == "python":
                print(f"-- {first}", flush=True)
                subprocess.run([sys.executable, "-c", body], check=True, cwd=folder)
                num_run += 1
            elif language in ("yaml", "json", "jsonl") and first.startswith(("# ", "// ")):
                name = first.split(" ", 1)[1].strip()
                (Path(folder) / name).write_text(body.split("\n", 1)[1])
    print(f"{num_run} code blocks ran")
    return 0 if num_run else 1


if __name__ == "__main__":
    sys.exit(main())
