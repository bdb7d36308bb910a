// quota_cpus(argv[1], argv[2]), printed.
#include <cstdio>

#include "core/os.h"

int main(int, char** argv) {
  std::printf("%d\n", rnnk::quota_cpus(argv[1], argv[2]));
  return 0;
}
