#include "reference/state.hpp"

#include <algorithm>
#include <cstring>

namespace dsv4::reference {

using attention::IndexFp4Pool;
using attention::KvPagePool;

// ---------------------------------------------------------------------------------------------- RowStore

RowStore::RowStore(RowFormat format, int channels) : format_(format), channels_(channels) {
  switch (format) {
    case RowFormat::kF32:
      row_bytes_ = std::int64_t{4} * channels;
      break;
    case RowFormat::kKv584:
      row_bytes_ = KvPagePool::kEntryBytes;
      break;
    case RowFormat::kIndexFp4:
      row_bytes_ = IndexFp4Pool::kEntryBytes;
      break;
  }
}

std::uint8_t* RowStore::writable(std::int64_t slot) {
  const auto index = static_cast<std::size_t>(slot / kPageRows);
  const auto page_bytes = static_cast<std::size_t>(kPageRows * row_bytes_);
  if (index >= pages_.size()) pages_.resize(index + 1);
  Page& page = pages_[index];
  if (!page) {
    page = std::make_shared<std::uint8_t[]>(page_bytes);  // zeroed: pad bytes are defined
  } else if (page.use_count() > 1) {
    Page copy = std::make_shared<std::uint8_t[]>(page_bytes);
    std::memcpy(copy.get(), page.get(), page_bytes);
    page = std::move(copy);
  }
  return page.get();
}

const std::uint8_t* RowStore::page(std::int64_t slot) const {
  return pages_[static_cast<std::size_t>(slot / kPageRows)].get();
}

namespace {

// One page as the pool of its format. The pools take writable bytes; the const callers below only read
// through them.
KvPagePool kv_page(const std::uint8_t* page) {
  return {const_cast<std::uint8_t*>(page), 0, RowStore::kPageRows, RowStore::kPageRows};
}
IndexFp4Pool index_page(const std::uint8_t* page) {
  return {const_cast<std::uint8_t*>(page), 0, RowStore::kPageRows, RowStore::kPageRows};
}

}  // namespace

template <class T>
void RowStore::write(std::int64_t slot, const T* row) {
  std::uint8_t* page = writable(slot);
  const std::int64_t i = slot % kPageRows;
  switch (format_) {
    case RowFormat::kF32: {
      float* out = reinterpret_cast<float*>(page) + i * channels_;
      for (int d = 0; d < channels_; ++d) out[d] = to_float(row[d]);
      break;
    }
    case RowFormat::kKv584:
      kv_page(page).write(SerialCoop{}, i, row);
      break;
    case RowFormat::kIndexFp4:
      index_page(page).write(SerialCoop{}, i, row);
      break;
  }
}

template void RowStore::write(std::int64_t, const float*);
template void RowStore::write(std::int64_t, const bf16*);

void RowStore::read(std::int64_t slot, float* buffer) const {
  const std::int64_t i = slot % kPageRows;
  if (format_ == RowFormat::kKv584) kv_page(page(slot)).read(i, buffer);
  if (format_ == RowFormat::kIndexFp4) index_page(page(slot)).read(i, buffer);
}

const float* RowStore::view(std::int64_t slot, const float* buffer) const {
  if (format_ != RowFormat::kF32) return buffer;
  return reinterpret_cast<const float*>(page(slot)) + slot % kPageRows * channels_;
}

namespace {

// The two runs of bytes of row i in a page: data, then (quantised formats) scales.
struct Runs {
  std::int64_t data_at, data_bytes, scales_at, scale_bytes;
};

Runs runs(RowFormat format, std::int64_t row_bytes, std::int64_t i) {
  constexpr std::int64_t kRows = RowStore::kPageRows;
  switch (format) {
    case RowFormat::kKv584:
      return {i * KvPagePool::kDataBytes, KvPagePool::kDataBytes,
              kRows * KvPagePool::kDataBytes + i * KvPagePool::kScaleBytes, KvPagePool::kScaleBytes};
    case RowFormat::kIndexFp4:
      return {i * IndexFp4Pool::kDataBytes, IndexFp4Pool::kDataBytes,
              kRows * IndexFp4Pool::kDataBytes + i * IndexFp4Pool::kScaleBytes, IndexFp4Pool::kScaleBytes};
    case RowFormat::kF32:
      break;
  }
  return {i * row_bytes, row_bytes, 0, 0};
}

}  // namespace

void RowStore::get_bytes(std::int64_t slot, std::uint8_t* out) const {
  const Runs r = runs(format_, row_bytes_, slot % kPageRows);
  std::memcpy(out, page(slot) + r.data_at, static_cast<std::size_t>(r.data_bytes));
  std::memcpy(out + r.data_bytes, page(slot) + r.scales_at, static_cast<std::size_t>(r.scale_bytes));
}

void RowStore::set_bytes(std::int64_t slot, const std::uint8_t* in) {
  std::uint8_t* page = writable(slot);
  const Runs r = runs(format_, row_bytes_, slot % kPageRows);
  std::memcpy(page + r.data_at, in, static_cast<std::size_t>(r.data_bytes));
  std::memcpy(page + r.scales_at, in + r.data_bytes, static_cast<std::size_t>(r.scale_bytes));
}

// ----------------------------------------------------------------------------------------- SequenceState

namespace {

CompressorState compressor_state(LayerKind kind, int dim, RowFormat entries, std::int64_t max_rollback) {
  CompressorState s;
  s.shape = {ratio_of(kind), dim};
  s.ring = s.shape.span() + max_rollback;
  s.rows = RowStore(RowFormat::kF32, s.shape.row_floats());
  s.entries = RowStore(entries, dim);
  return s;
}

}  // namespace

SequenceState::SequenceState(const ModelConfig& config, NumericMode mode, StateOptions options)
    : mode_(mode), options_(options), max_positions_(config.max_positions) {
  options_.max_rollback = std::max(options_.max_rollback, 0);
  options_.mtp = options.mtp && config.mtp_layers > 0;
  const bool deploy = mode == NumericMode::kDeploy;
  const RowFormat kv = deploy ? RowFormat::kKv584 : RowFormat::kF32;
  const RowFormat key = deploy ? RowFormat::kIndexFp4 : RowFormat::kF32;
  blocks_.resize(static_cast<std::size_t>(options_.mtp ? config.blocks() : config.layers));
  for (int b = 0; b < blocks(); ++b) {
    BlockState& s = block(b);
    s.kind = config.kind(b);
    s.ring = kWindow + options_.max_rollback;
    s.window = RowStore(kv, kHeadDim);
    if (s.kind != LayerKind::kSwa) s.main = compressor_state(s.kind, kHeadDim, kv, options_.max_rollback);
    if (s.kind == LayerKind::kCsa) s.index = compressor_state(s.kind, kIndexDim, key, options_.max_rollback);
  }
}

std::int64_t SequenceState::rollback_floor() const {
  return std::max<std::int64_t>(0, high_ - options_.max_rollback);
}

Status SequenceState::rollback(std::int64_t position) {
  DSV4_REQUIRE(position <= length_,
               invalid_argument("rollback: position is beyond the sequence", position, length_));
  DSV4_REQUIRE(position >= rollback_floor(),
               invalid_argument("rollback: position is further back than max_rollback keeps", position,
                                rollback_floor()));
  length_ = position;
  return {};
}

void SequenceState::advance(std::int64_t count) {
  length_ += count;
  high_ = std::max(high_, length_);
}

std::int64_t SequenceState::bytes() const {
  std::int64_t sum = 0;
  for (const BlockState& b : blocks_)
    for (const RowStore* s : {&b.window, &b.main.rows, &b.main.entries, &b.index.rows, &b.index.entries})
      sum += s->bytes();
  for (const BlockState& b : blocks_)
    for (const CompressorState* c : {&b.main, &b.index}) sum += static_cast<std::int64_t>(c->running.size());
  return sum;
}

namespace {

// Calls visit(store, p, end, ring) for every run of rows a blob holds, in a fixed order: rows p .. end - 1 of
// `store`, row p at slot p % ring (ring 0: at slot p). `floor` is the smallest length to which the sequence
// may be rolled back.
template <class Blocks, class Visit>
void visit_rows(Blocks& blocks, std::int64_t floor, std::int64_t length, Visit visit) {
  for (auto& b : blocks) {
    // The token at `floor` sees the window - 1 positions before it.
    visit(b.window, std::max<std::int64_t>(0, floor - (kWindow - 1)), length, b.ring);
    for (auto* c : {&b.main, &b.index}) {
      if (c->shape.ratio == 0) continue;
      const std::int64_t open =
          floor / c->shape.ratio * c->shape.ratio;  // first token of the block open at `floor`
      visit(c->rows, std::max<std::int64_t>(0, open - (c->shape.span() - c->shape.ratio)), length, c->ring);
      visit(c->entries, std::int64_t{0}, length / c->shape.ratio, std::int64_t{0});
    }
  }
}

}  // namespace

namespace {

// Blob: Header, then the rows of visit_rows one after the other, then the FNV-1a checksum of all before it.
struct Header {
  char magic[8];
  std::uint32_t version, mode, mtp, blocks;
  std::int64_t max_rollback, length, high;
  std::uint64_t kinds;  // FNV-1a of the blocks' kinds
};
static_assert(sizeof(Header) == 56, "a blob has no padding");

constexpr char kMagic[8] = {'d', 's', 'v', '4', 's', 't', 'a', 't'};
constexpr std::uint32_t kVersion = 1;

std::uint64_t fnv1a(const std::uint8_t* data, std::size_t size) {
  std::uint64_t hash = 14695981039346656037ull;
  for (std::size_t i = 0; i < size; ++i) hash = (hash ^ data[i]) * 1099511628211ull;
  return hash;
}

std::uint64_t kinds_hash(const std::vector<BlockState>& blocks) {
  std::vector<std::uint8_t> kinds;
  for (const BlockState& b : blocks) kinds.push_back(static_cast<std::uint8_t>(b.kind));
  return fnv1a(kinds.data(), kinds.size());
}

std::int64_t slot_of(std::int64_t p, std::int64_t ring) { return ring == 0 ? p : p % ring; }

}  // namespace

std::vector<std::uint8_t> SequenceState::save(Extent extent) const {
  const std::int64_t floor = extent == Extent::kLive ? length_ : std::min(rollback_floor(), length_);
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.mode = mode_ == NumericMode::kDeploy;
  header.mtp = options_.mtp;
  header.blocks = static_cast<std::uint32_t>(blocks_.size());
  header.max_rollback = options_.max_rollback;
  header.length = length_;
  // Restored, the floor is high - max_rollback again: kLive keeps no history, so its high puts the floor at
  // length.
  header.high = extent == Extent::kLive ? length_ + options_.max_rollback : high_;
  header.kinds = kinds_hash(blocks_);

  std::size_t size = sizeof header + sizeof(std::uint64_t);
  visit_rows(blocks_, floor, length_,
             [&](const RowStore& s, std::int64_t begin, std::int64_t end, std::int64_t) {
               size += static_cast<std::size_t>(std::max<std::int64_t>(0, end - begin) * s.row_bytes());
             });
  std::vector<std::uint8_t> blob(size);
  std::uint8_t* out = blob.data();
  std::memcpy(out, &header, sizeof header);
  out += sizeof header;
  visit_rows(blocks_, floor, length_,
             [&](const RowStore& s, std::int64_t begin, std::int64_t end, std::int64_t ring) {
               for (std::int64_t p = begin; p < end; ++p, out += s.row_bytes())
                 s.get_bytes(slot_of(p, ring), out);
             });
  const std::uint64_t checksum = fnv1a(blob.data(), size - sizeof checksum);
  std::memcpy(out, &checksum, sizeof checksum);
  return blob;
}

Status SequenceState::restore(std::span<const std::uint8_t> blob) {
  Header header;
  const auto size = static_cast<std::int64_t>(blob.size());
  constexpr auto kLeast = static_cast<std::int64_t>(sizeof header + sizeof(std::uint64_t));
  DSV4_REQUIRE(size >= kLeast, invalid_argument("restore: blob is truncated (bytes)", size, kLeast));
  std::memcpy(&header, blob.data(), sizeof header);
  DSV4_REQUIRE(std::memcmp(header.magic, kMagic, sizeof kMagic) == 0,
               invalid_argument("restore: not a saved sequence (magic)"));
  DSV4_REQUIRE(header.version == kVersion, unsupported("restore: blob version", header.version, kVersion));
  std::uint64_t checksum;
  std::memcpy(&checksum, blob.data() + blob.size() - sizeof checksum, sizeof checksum);
  DSV4_REQUIRE(checksum == fnv1a(blob.data(), blob.size() - sizeof checksum),
               invalid_argument("restore: blob is damaged or truncated (checksum)"));
  DSV4_REQUIRE(header.mode == (mode_ == NumericMode::kDeploy),
               invalid_argument("restore: blob of another numeric mode"));
  DSV4_REQUIRE(
      header.blocks == blocks_.size() && header.mtp == options_.mtp && header.kinds == kinds_hash(blocks_),
      invalid_argument("restore: blob of another configuration (blocks)", header.blocks,
                       static_cast<std::int64_t>(blocks_.size())));
  DSV4_REQUIRE(
      header.max_rollback == options_.max_rollback,
      invalid_argument("restore: blob of another max_rollback", header.max_rollback, options_.max_rollback));
  DSV4_REQUIRE(header.length >= 0 && header.length <= max_positions_,
               invalid_argument("restore: length out of range", header.length, max_positions_));
  DSV4_REQUIRE(
      header.high >= header.length && header.high - header.length <= header.max_rollback,
      invalid_argument("restore: history out of range", header.high, header.length + header.max_rollback));

  SequenceState restored = *this;  // the same stores, with pages of their own
  restored.length_ = header.length;
  restored.high_ = header.high;
  for (BlockState& b : restored.blocks_)
    for (RowStore* s : {&b.window, &b.main.rows, &b.main.entries, &b.index.rows, &b.index.entries})
      s->clear();
  for (BlockState& b : restored.blocks_)
    for (CompressorState* c : {&b.main, &b.index}) c->running.clear();
  std::int64_t left = size - kLeast;
  const std::uint8_t* in = blob.data() + sizeof header;
  bool fits = true;
  const std::int64_t floor = std::min(restored.rollback_floor(), restored.length_);
  visit_rows(restored.blocks_, floor, restored.length_,
             [&](RowStore& s, std::int64_t begin, std::int64_t end, std::int64_t ring) {
               for (std::int64_t p = begin; fits && p < end; ++p) {
                 fits = left >= s.row_bytes();
                 if (!fits) return;
                 s.set_bytes(slot_of(p, ring), in);
                 in += s.row_bytes();
                 left -= s.row_bytes();
               }
             });
  DSV4_REQUIRE(fits && left == 0, invalid_argument("restore: blob has the wrong size (bytes)", size));
  *this = std::move(restored);
  return {};
}

}  // namespace dsv4::reference
