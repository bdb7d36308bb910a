# Sourced by .ci/run and .ci/quick: stages, each with its seconds, and what both check first.
names=() seconds=() began=0

# stage NAME: the stage before it has ended
stage() {
  if ((${#names[@]})); then seconds+=($((SECONDS - began))); fi
  names+=("$*")
  began=$SECONDS
  printf '\n=== %s (after %d s)\n' "$*" "$SECONDS"
}

# A line for each stage, the sum last.
summary() {
  seconds+=($((SECONDS - began)))
  printf '\n'
  for i in "${!names[@]}"; do printf '%s: %d s\n' "${names[i]}" "${seconds[i]}"; done
  printf 'in all: %d s\n' "$SECONDS"
}

# format_and_lint FOLDER: with the programs of that folder
format_and_lint() {
  "$1/ruff" check .
  "$1/ruff" format --check .
  git ls-files -z '*.h' '*.cpp' '*.c' '*.cu' '*.cuh' | xargs -0 "$1/clang-format" --dry-run -Werror
}
