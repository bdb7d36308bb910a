#!/usr/bin/env bash
# One run on a bare GPU machine, in two calls; everything else is made before, on a machine with nvcc and no GPU.
#
#     bench/gpu/once.sh prepare                           makes build/gpu/carried (at most 60 MiB)
#     OUT=results bench/gpu/once.sh call1                 is everything right? 240 s
#     OUT=results bench/gpu/once.sh call2                 how fast is it? 400 s
#     bench/gpu/once.sh call1 --dry                       every step without a GPU, tiny
#
# Carry the checkout, with build/gpu/carried in it, to the GPU machine. It needs python3 with torch there, no network and no
# installation. OUT: where records go; default build/gpu/out. PYTHON: the interpreter. docs/gpu.md has the rest.
#
# Exit status: 0 if no step failed, 1 if one did, 2 for wrong arguments, 3 if nothing was checked or measured.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/../.."
# shellcheck disable=SC2086 # PYTHON may have options
exec ${PYTHON:-python3} -m bench.gpu.once --caller "$caller" "$@"
