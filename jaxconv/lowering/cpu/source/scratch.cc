#include "scratch.h"

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <vector>

namespace jaxconv {
namespace {

constexpr std::size_t kKept = std::size_t{64} << 20;  // bytes
constexpr std::size_t kBlocks = 16;

struct Block {
  void* memory;
  std::size_t size;
};
struct Idle {
  std::mutex mutex;
  std::vector<Block> blocks;  // the longest unused first
  std::size_t size = 0;
  Idle() { blocks.reserve(kBlocks + 1); }  // giving back allocates nothing: it happens where nothing may fail
};
Idle& idle() {
  static Idle* const idle = [] {
    Idle* const made = new Idle;  // never destroyed: threads may end after main
    // A process forked while another thread holds the mutex would never see it free.
    pthread_atfork([] { jaxconv::idle().mutex.lock(); }, [] { jaxconv::idle().mutex.unlock(); },
                   [] { jaxconv::idle().mutex.unlock(); });
    return made;
  }();
  return *idle;
}

}  // namespace

void* take_scratch(std::size_t bytes, std::size_t& held) {
  {
    std::lock_guard<std::mutex> lock(idle().mutex);
    auto& blocks = idle().blocks;
    auto best = blocks.end();  // the smallest that is large enough
    for (auto at = blocks.begin(); at != blocks.end(); ++at) {
      if (at->size >= bytes && (best == blocks.end() || at->size < best->size)) best = at;
    }
    if (best != blocks.end()) {
      const Block found = *best;
      blocks.erase(best);
      idle().size -= found.size;
      held = found.size;
      return found.memory;
    }
  }
  held = std::max<std::size_t>(bytes, 64);
  return ::operator new(held, std::align_val_t{64});
}

void give_scratch(void* memory, std::size_t held) {
  std::lock_guard<std::mutex> lock(idle().mutex);
  auto& blocks = idle().blocks;
  blocks.push_back({memory, held});
  idle().size += held;
  while (idle().size > kKept || blocks.size() > kBlocks) {
    ::operator delete(blocks.front().memory, std::align_val_t{64});
    idle().size -= blocks.front().size;
    blocks.erase(blocks.begin());
  }
}

}  // namespace jaxconv
