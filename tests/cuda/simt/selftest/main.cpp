// selftest: names of all cases, one a line. selftest CASE: runs it; what was wrong goes to standard output.
#include "cases.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

// The library's own (core/problem.cpp) comes with files that only a build has.
void rnnk::fail(rnnk_status code, const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof text, format, list);
  va_end(list);
  throw Failure{code, text};
}

int main(int count, char** arguments) {
  for (const auto& cases : {selftest::right(), selftest::planted(), selftest::reported()}) {
    for (const selftest::Case& one : cases) {
      if (count < 2) {
        std::puts(one.name);
      } else if (std::strcmp(arguments[1], one.name) == 0) {
        try {
          one.run();
          return 0;
        } catch (const std::string& what) {
          std::printf("%s\n", what.c_str());
        } catch (const rnnk::Failure& failure) {
          std::printf("%s\n", failure.text.c_str());
        }
        return 1;
      }
    }
  }
  return count < 2 ? 0 : 2;
}
