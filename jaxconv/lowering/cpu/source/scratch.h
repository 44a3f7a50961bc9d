// Working memory that outlives a call: large blocks are mapped afresh by the allocator at each call otherwise, and
// every page of them faults. What is kept is bounded.
#pragma once
#include <cstddef>

namespace jaxconv {

// At least `bytes` of memory with any content; give_scratch takes it back.
void* take_scratch(std::size_t bytes, std::size_t& held);
void give_scratch(void* memory, std::size_t held);

template <class Real>
class Scratch {
 public:
  explicit Scratch(std::size_t count) : memory_(take_scratch(count * sizeof(Real), held_)) {}
  ~Scratch() { give_scratch(memory_, held_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Real* get() const { return static_cast<Real*>(memory_); }

 private:
  std::size_t held_ = 0;  // before memory_: taking writes it
  void* memory_;
};

}  // namespace jaxconv
