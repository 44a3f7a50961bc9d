#!/usr/bin/env bash
# One step of .ci/run: .ci/steps.sh NAME, with WORK naming the temporary folder that the steps share.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
copy=$WORK/tests/jaxconv # the copy and environment that step `tests` leaves for others
kernels=$copy/jaxconv/lowering/cpu/kernels
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off PIP_QUIET=2 NO_MKDOCS_2_WARNING=1

# Where there is a compiler the CPU kernels have to build, not only may.
if type -p c++ g++ clang++ >/dev/null; then export JAXCONV_BUILD_NATIVE=1; fi

find_python() { # the first named interpreter that starts and can make environments, as an absolute path
  local name found
  for name in "$@"; do
    for found in $(type -ap "$name") "${HOME:-}"/.pyenv/versions/"${name#python}".*/bin/python; do
      if "$found" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        "$found" -c 'import sys; print(sys.executable)'
        return
      fi
    done
  done
  echo "none of these is here, or older than Python 3.11: $*" >&2
  return 1
}

oldest_python() { find_python python3.11 python3 python3.12 python3.13; }

copy_tree() { # NAME: the files that git knows or would take, with shared/ beside them where the checkout has it
  mkdir -p "$WORK/$1/jaxconv"
  (
    cd "$root"
    git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
      tar --null -T - --ignore-failed-read -cf -
  ) | tar -xf - -C "$WORK/$1/jaxconv"
  # kernels that step `tests` built are built again only where sources, compiler or jaxlib differ
  if [ "$1" != train ] && [ -e "$kernels.so" ]; then cp "$kernels".* "$WORK/$1/jaxconv/jaxconv/lowering/cpu/"; fi
  if [ -e "$root/../shared" ]; then ln -sfn "$(cd "$root/../shared" && pwd)" "$WORK/$1/shared"; fi
}

readme_command() { # NAME: the line in the fence that follows <!-- command: NAME -->
  awk -v mark="<!-- command: $1 -->" '
    $0 == mark {found = 1; next}
    found && /^```/ {inside = 1; next}
    inside {print; exit}' "$root/README.md"
}

run_readme_command() { # NAME FOLDER: the README's line as it stands, in a new copy, with the oldest Python that will do as python3
  local line
  line=$(readme_command "$1")
  [ -n "$line" ] || { echo "README.md has no command named $1" >&2; return 1; }
  copy_tree "$2"
  mkdir -p "$WORK/bin"
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$(oldest_python)" >"$WORK/bin/python3"
  chmod +x "$WORK/bin/python3"
  echo "+ $line"
  cd "$WORK/$2/jaxconv"
  PATH="$WORK/bin:$PATH" bash -euo pipefail -c "$line"
}

enter_environment() { # EXTRA: the copy of step `tests`, made where a step runs alone, with one more extra where it is not there yet
  if [ ! -x "$copy/.venv/bin/pytest" ]; then
    copy_tree tests
    "$(oldest_python)" -m venv "$copy/.venv"
  fi
  cd "$copy"
  if [ ! -e ".venv/has-$1" ]; then
    .venv/bin/python -m pip install -e ".[$1]"
    touch ".venv/has-$1"
  fi
}

enter_own() { # NAME: a copy and an environment of its own, with what the tests need
  copy_tree "$1"
  cd "$WORK/$1/jaxconv"
  "$(oldest_python)" -m venv .venv
  .venv/bin/python -m pip install -e ".[test]"
}

install_or_skip() { # EXTRA WHAT: end well where there is no package of it for this platform and Python
  if ! .venv/bin/python -m pip install -e ".[$1]"; then
    echo "skipped: $2 cannot be installed here"
    exit 0
  fi
}

case ${1:?name a step} in
  tests)
    run_readme_command test tests
    touch .venv/has-test
    ;;
  slow)
    enter_environment test
    .venv/bin/python -m pytest --dist load -m "slow and not parity and not gpu"
    ;;
  lint)
    enter_environment dev
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    ;;
  types)
    enter_environment dev
    .venv/bin/mypy
    ;;
  docs)
    enter_environment docs
    .venv/bin/mkdocs build --strict --quiet --site-dir "$WORK/site"
    ;;
  parity)
    enter_environment test,parity
    .venv/bin/python -m pytest --dist load -m "parity and not gpu"
    # the blocks and examples that import PyTorch or onnx, skipped without them
    .venv/bin/python -m pytest tests/test_readme.py tests/test_docstrings.py -k "torch or onnx or paddings or conventions"
    ;;
  tensorflow) # in an environment of its own, and only where there is a package for this platform and Python
    enter_own tensorflow
    install_or_skip tensorflow TensorFlow
    .venv/bin/python -m pytest -m "parity and slow" tests/test_dialect_tensorflow_parity.py
    .venv/bin/python -m pytest tests/test_readme.py -k from-tensorflow # the block that imports TensorFlow
    ;;
  train) # the main job, in an environment of its own: the extra that the README names has to be enough
    run_readme_command train train
    ;;
  newest) # lint, types, docs and the core's tests on the newest Python, and with it the newest jax, that is here
    if ! newest=$(find_python python3.14 python3.13 python3.12); then
      echo "skipped: no Python newer than 3.11 is installed here"
      exit 0
    fi
    copy_tree newest
    cd "$WORK/newest/jaxconv"
    "$newest" -m venv .venv
    .venv/bin/python -m pip install -e ".[dev]"
    .venv/bin/ruff check .
    .venv/bin/mypy
    .venv/bin/mkdocs build --strict --quiet --site-dir "$WORK/site-newest"
    .venv/bin/python -m pytest tests/test_core_*.py tests/test_lattice.py tests/test_lowering_*.py tests/test_native.py \
      tests/test_pooling.py tests/test_resample.py tests/test_nn_*.py tests/test_matrix.py tests/test_operator*.py \
      tests/test_accelerate.py tests/test_accelerate_recognise.py tests/test_accelerate_meshes.py \
      tests/test_analysis_*.py tests/test_setup.py tests/test_hints.py tests/test_eager.py
    .venv/bin/python -m pytest -m slow tests/test_core_sharding.py tests/test_accelerate_meshes.py
    echo "+ without the compiled kernels, every program optimised as a user's is"
    export JAX_DISABLE_MOST_OPTIMIZATIONS=0
    JAXCONV_NATIVE=0 .venv/bin/python -m pytest tests/test_core_faces.py tests/test_core_transforms.py \
      tests/test_lowering_choice.py tests/test_native.py -k "not hypothesis"
    ;;
  tpu) # the compiler of TPUs in an environment of its own; no TPU is needed
    enter_own tpu
    export JAX_DISABLE_MOST_OPTIMIZATIONS=0 # what these compilers make of a program is what is asked here
    install_or_skip tpu-compile "the compiler for TPUs"
    .venv/bin/python -m pytest -n 2 -m tpu_compile
    ;;
  gpu) # the compiler of GPUs, 4 GB: run by name; no GPU is needed
    enter_own gpu
    export JAX_DISABLE_MOST_OPTIMIZATIONS=0 # what these compilers make of a program is what is asked here
    install_or_skip gpu-compile "the compiler for GPUs"
    .venv/bin/python -m pytest -n 2 -m gpu_compile
    ;;
  *)
    echo "there is no step $1" >&2
    exit 2
    ;;
esac
