# Sourced by the other scripts: makes .venv when there is none and brings it up to date.
#   use_venv FOLDER PYTHON PIP_ARGUMENT...
# A stamp of pyproject.toml and the arguments makes every later call free.

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$candidate"
      return
    fi
  done
  echo "helium-jax needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2
  return 1
}

use_venv() {
  folder=$1 python=$2
  shift 2
  stamp=$(cksum pyproject.toml | cut -d' ' -f1)-$(echo "$*" | cksum | cut -d' ' -f1)
  if [ ! -x "$folder/bin/python" ]; then
    echo "making $folder with $($python --version)"
    "$python" -m venv "$folder"
  fi
  if [ ! -e "$folder/.stamp-$stamp" ]; then
    echo "installing into $folder (a few minutes the first time)"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --editable . "$@"
    touch "$folder/.stamp-$stamp"
  fi
}
