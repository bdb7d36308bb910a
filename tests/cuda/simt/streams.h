// Streams of the executor. Work is done when it is put on a stream; but between fork() and join() it waits, and join() does it in
// a drawn order that the streams allow, so that what nothing orders shows. Each host thread has its own.
#pragma once
#include <functional>

namespace rnnk {
namespace simt {

void on_stream(void* stream, std::function<void()> work);
// As fork_streams(), order_streams() and join_streams() of cuda/runtime.h.
void* const* fork(void* stream, int count);
void order(void* first, void* then);
void join(void* stream, int count);
int forks();  // streams, since the process began

}  // namespace simt
}  // namespace rnnk
