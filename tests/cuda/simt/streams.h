// Streams of the executor. Work is done when it is put on a stream; but between fork() and join() it waits, and join() does it in
// a drawn order that the streams allow, so that what nothing orders shows; launches whose blocks are all there at once, and have room
// beside each other, mostly run at the same time, thread by thread. Each host thread has its own.
#pragma once
#include <functional>
#include <memory>

#include "simt/executor.h"

namespace rnnk {
namespace simt {

// name: for failures. Work tells accesses() (races.h) what it reads and writes.
void on_stream(void* stream, const char* name, std::function<void()> work);
// share: of the device, which it needs while it runs; 1 where it does not run beside another one.
void on_stream(void* stream, const Grid&, std::shared_ptr<const void> params, double share);
// As fork_streams(), order_streams() and join_streams() of cuda/runtime.h.
void* const* fork(void* stream, int count);
void order(void* first, void* then);
void join(void* stream, int count);
int forks();  // streams, since the process began

}  // namespace simt
}  // namespace rnnk
