// What a step of a recurrence costs on this GPU besides its arithmetic, and the rates it can count on: M1 to M8, one line of
// JSON each, printed as soon as it is known. Exit status 0: all measured; 1: some failed, said in their lines; 2: no GPU of
// capability 9.0; 3: a kernel did not end.
//
//     nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a latencies.cu -o latencies && ./latencies [M1 M5 ...]
//
// exchange.cuh: M1 to M4    cluster.cuh: M5    rates.cuh: M6, M7    measure.cuh: clocks, spins, medians
#include <cstring>
#include <random>
#include <string>

#include "cluster.cuh"
#include "exchange.cuh"
#include "measure.cuh"
#include "rates.cuh"

namespace {

constexpr int kAlone = 120 << 10;  // bytes of shared memory that leave room for one block on an SM

struct Gpu {
  cudaDeviceProp about;
  uint4* memory;  // [kWords]
  Bench bench;
};
constexpr size_t kWords = size_t{2} << 20;  // 32 MB

template <class... Args>
cudaError_t alone(void (*kernel)(Args...)) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, kAlone);
}

void fill(Gpu& gpu, int byte, size_t words) { CHECK(cudaMemset(gpu.memory, byte, words * sizeof(uint4))); }

double per_hop(double ns, double) { return ns / (2 * kHops); }
double per_step(double ns, double) { return ns / kSteps; }

// M1, M2: with partners in several places, since SMs and slices of the cache lie nearer to and farther from each other.
void hops(Gpu& gpu, bool m1, bool m2) {
  const int sms = gpu.about.multiProcessorCount;
  unsigned* words = reinterpret_cast<unsigned*>(gpu.memory);
  CHECK(alone(hop_data));
  CHECK(alone(hop_flag));
  for (const int partner : {1, 2, sms / 4, sms / 2, sms - 1}) {
    const std::string what = "block 0 to block " + std::to_string(partner);
    if (m1)
      gpu.bench.run(
          "M1 store, poll: hop", what.c_str(), "ns",
          [&] {
            fill(gpu, 0xff, size_t{2} * kHops * kLine);
            hop_data<<<sms, 32, kAlone>>>(gpu.memory, partner, gpu.bench.report());
            return cudaGetLastError();
          },
          per_hop);
    if (m2)
      gpu.bench.run(
          "M2 st.release, ld.acquire: hop", what.c_str(), "ns",
          [&] {
            fill(gpu, 0, 64);
            hop_flag<<<sms, 32, kAlone>>>(words, partner, gpu.bench.report());
            return cudaGetLastError();
          },
          per_hop);
  }
}

void counter_hops(Gpu& gpu) {
  CHECK(alone(hop_counter));
  for (const int blocks : {2, 64, 128})
    gpu.bench.run(
        "M3 counter: hop", (std::to_string(blocks) + " blocks").c_str(), "ns",
        [&] {
          fill(gpu, 0, 16);
          hop_counter<<<blocks, 32, kAlone>>>(reinterpret_cast<unsigned*>(gpu.memory), gpu.bench.report());
          return cudaGetLastError();
        },
        per_hop);
}

void grid_barriers(Gpu& gpu) {
  for (const int blocks : {32, 64, gpu.about.multiProcessorCount}) {
    Report report = gpu.bench.report();
    void* arguments[] = {&report};
    gpu.bench.run(
        "M4 grid.sync", (std::to_string(blocks) + " blocks").c_str(), "ns",
        [&] {
          return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(grid_barrier),
                                             dim3(static_cast<unsigned>(blocks)), dim3(256), arguments, 0, nullptr);
        },
        per_step);
  }
}

template <Way way, int fragments>
void exchange(Gpu& gpu, const char* name) {
  for (const int blocks : {32, 64, 128}) {
    const int words = 256 * fragments;
    const size_t data = size_t(way == Way::kData ? kSteps : 2) * words, flags = size_t{kSteps} * 32 / 4;
    Exchange e = {gpu.memory, reinterpret_cast<unsigned*>(gpu.memory + data), words, gpu.bench.report()};
    void* arguments[] = {&e};
    gpu.bench.run(
        name, (std::to_string(words / 64) + " KB, " + std::to_string(blocks) + " blocks").c_str(), "ns",
        [&] {
          fill(gpu, 0, data + flags);
          if (way == Way::kData) fill(gpu, 0xff, data);
          return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(exchange_step<way, fragments>),
                                             dim3(static_cast<unsigned>(blocks)), dim3(256), arguments, 0, nullptr);
        },
        per_step);
  }
}

template <Way way>
void exchanges(Gpu& gpu, const char* name) {  // 8 KB: 16 rows of 256 half-type units; 32 KB: of 1024
  exchange<way, 2>(gpu, name);
  exchange<way, 8>(gpu, name);
}

void clusters(Gpu& gpu) {
  for (auto* kernel : {cluster_barrier, cluster_push})
    CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  for (const int size : {2, 4, 8, 16}) {
    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t config = cluster_config(size, size, kPushShared, &attribute);
    int most = 0;
    if (cudaOccupancyMaxActiveClusters(&most, cluster_push, &config) != cudaSuccess) most = 0;
    (void)cudaGetLastError();
    for (const int count : {1, std::min(most, gpu.about.multiProcessorCount / size)}) {
      config.gridDim.x = static_cast<unsigned>(count * size);
      const std::string what = std::to_string(size) + " blocks, " + std::to_string(count) + " clusters";
      const auto figure = [](double ns, double) { return ns / kClusterSteps; };
      gpu.bench.run(
          "M5 cluster: barrier", what.c_str(), "ns",
          [&] { return cudaLaunchKernelEx(&config, cluster_barrier, gpu.bench.report()); }, figure);
      gpu.bench.run(
          "M5 cluster: st.async step of 8 KB", what.c_str(), "ns",
          [&] { return cudaLaunchKernelEx(&config, cluster_push, gpu.bench.report()); }, figure);
    }
  }
}

void ingests(Gpu& gpu) {
  const int sms = gpu.about.multiProcessorCount;
  unsigned* sink = reinterpret_cast<unsigned*>(gpu.memory + kWords - 1);
  CHECK(alone(ingest));
  fill(gpu, 0x5a, size_t{256} << 6);
  for (const int blocks : {1, sms})
    for (const int threads : {128, 256, 512})
      for (const int kb : {16, 32, 64, 128, 256}) {
        const int words = kb << 6;
        if (words % (8 * threads) != 0) continue;
        const std::string what =
            std::to_string(kb) + " KB, " + std::to_string(blocks) + " blocks of " + std::to_string(threads);
        gpu.bench.run(
            "M6 ingest of one SM", what.c_str(), "B/ns",
            [&] {
              ingest<<<blocks, threads, kAlone>>>(gpu.memory, words, sink, gpu.bench.report());
              return cudaGetLastError();
            },
            [&](double ns, double) { return 16.0 * words * kReads / ns; });
      }
}

// Rates as operations of one SM in one cycle, a multiply-add counting as two.
template <bool tf32, int sums>
void mma(Gpu& gpu, const unsigned* given) {
  float* out = reinterpret_cast<float*>(gpu.memory);
  for (const int warps : {4, 8, 16}) {
    const std::string what = std::to_string(warps) + " warps of an SM, " + std::to_string(sums) + " sums";
    const double work = 2.0 * 16 * 8 * (tf32 ? 8 : 16) * 8 * sums * kProducts * warps;
    gpu.bench.run(
        tf32 ? "M7 mma.sync m16n8k8 tf32" : "M7 mma.sync m16n8k16 bf16", what.c_str(), "FLOP/cycle/SM",
        [&] {
          mma_rate<tf32, sums><<<gpu.about.multiProcessorCount, warps * 32>>>(given, out, gpu.bench.report());
          return cudaGetLastError();
        },
        [&](double, double cycles) { return work / cycles; });
  }
}

template <int N>
void wgmmas(Gpu& gpu) {
  float* out = reinterpret_cast<float*>(gpu.memory);
  const std::string name = "M7 wgmma m64n" + std::to_string(N) + "k16 bf16, A in registers";
  cudaFuncAttributes about;
  CHECK(cudaFuncGetAttributes(&about, wgmma_rate<N>));
  if (about.sharedSizeBytes == 0) return gpu.bench.failed(name.c_str(), "", "left out: built without sm_90a");
  for (const int groups : {1, 2}) {
    const double work = 2.0 * 64 * N * 16 * 8 * kProducts * groups;
    gpu.bench.run(
        name.c_str(), (std::to_string(groups) + " warpgroups of an SM").c_str(), "FLOP/cycle/SM",
        [&] {
          wgmma_rate<N><<<gpu.about.multiProcessorCount, groups * 128>>>(out, gpu.bench.report());
          return cudaGetLastError();
        },
        [&](double, double cycles) { return work / cycles; });
  }
}

void products(Gpu& gpu) {
  std::mt19937 random(1);
  std::vector<unsigned> bits(32 * 34);
  // bfloat16 pairs, or tf32 words, of random sign and mantissa around 2^-7: sums stay small over all rounds.
  for (unsigned& word : bits) word = (random() & 0x807f807fu) | 0x3c003c00u;
  unsigned* given = device_array<unsigned>(bits.size());
  CHECK(cudaMemcpy(given, bits.data(), bits.size() * sizeof(unsigned), cudaMemcpyHostToDevice));
  mma<false, 1>(gpu, given);
  mma<false, 2>(gpu, given);
  mma<false, 4>(gpu, given);
  mma<false, 8>(gpu, given);
  mma<true, 1>(gpu, given);
  mma<true, 4>(gpu, given);
  wgmmas<64>(gpu);
  wgmmas<128>(gpu);
}

void occupancy(Gpu& gpu) {
  CHECK(cudaFuncSetAttribute(cluster_push, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  CHECK(cudaFuncSetAttribute(cluster_push, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10));
  for (const int size : {2, 4, 8, 16})
    for (const int kb : {100, 200}) {
      cudaLaunchAttribute attribute;
      const cudaLaunchConfig_t config = cluster_config(size, size, size_t(kb) << 10, &attribute);
      const std::string what = std::to_string(size) + " blocks of " + std::to_string(kb) + " KB";
      int most = 0;
      const cudaError_t refused = cudaOccupancyMaxActiveClusters(&most, cluster_push, &config);
      if (refused == cudaSuccess) gpu.bench.state("M8 active clusters", what.c_str(), "clusters", most);
      else gpu.bench.failed("M8 active clusters", what.c_str(), cudaGetErrorString(refused));
    }
}

void describe(const Gpu& gpu) {
  int sm_khz = 0, memory_khz = 0, driver = 0, runtime = 0;
  CHECK(cudaDeviceGetAttribute(&sm_khz, cudaDevAttrClockRate, 0));
  CHECK(cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, 0));
  CHECK(cudaDriverGetVersion(&driver));
  CHECK(cudaRuntimeGetVersion(&runtime));
  std::printf(
      "{\"name\": \"device\", \"gpu\": \"%s\", \"multiprocessors\": %d, \"shared_per_block\": %zu, \"l2_bytes\": %d, "
      "\"most_sm_mhz\": %d, \"memory_mhz\": %d, \"cuda_driver\": %d, \"cuda_runtime\": %d}\n",
      gpu.about.name, gpu.about.multiProcessorCount, gpu.about.sharedMemPerBlockOptin, gpu.about.l2CacheSize, sm_khz / 1000,
      memory_khz / 1000, driver, runtime);
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** given) {
  const auto wanted = [&](const char* name) {
    for (int i = 1; i < count; ++i)
      if (std::strcmp(given[i], name) == 0) return true;
    return count == 1;
  };
  int devices = 0;
  cudaDeviceProp about;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0 || cudaGetDeviceProperties(&about, 0) != cudaSuccess ||
      about.major != 9) {
    std::fprintf(stderr, "latencies: expected a GPU of compute capability 9.0, found %s\n", devices ? about.name : "none");
    return 2;
  }
  Gpu gpu = {about, device_array<uint4>(kWords), Bench()};
  describe(gpu);
  hops(gpu, wanted("M1"), wanted("M2"));
  if (wanted("M1")) exchanges<Way::kData>(gpu, "M1 data as flag: step");
  if (wanted("M2")) exchanges<Way::kFlag>(gpu, "M2 flags: step");
  if (wanted("M3")) {
    counter_hops(gpu);
    exchanges<Way::kCounter>(gpu, "M3 counter: step");
  }
  if (wanted("M4")) {
    grid_barriers(gpu);
    exchanges<Way::kGrid>(gpu, "M4 grid.sync: step");
  }
  if (wanted("M5")) clusters(gpu);
  if (wanted("M6")) ingests(gpu);
  if (wanted("M7")) products(gpu);
  if (wanted("M8")) occupancy(gpu);
  return gpu.bench.faults() ? 1 : 0;
}
