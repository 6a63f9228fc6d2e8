// An attention layer as an engine drives it: prefill in chunks, a prefix that two sequences share, decode
// with draft tokens of which some are taken back, all in mixed batches. Afterwards every output row is
// compared with a straight run, one call a sequence and nothing shared: bit for bit the same.
#include "examples/04_attention_layer/layer.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <vector>

namespace {

using namespace examples;

constexpr int kPages = 8, kSequences = 2;
constexpr int kShared = 2 * kPageTokens;  // tokens of the common prefix: whole pages
constexpr int kPrompt[kSequences] = {140, 137}, kEnd = 150, kDrafts = 3;

/// A token stands for the layer's input that it leads to.
using Token = std::uint64_t;
Token true_token(int sequence, int position) {
  return static_cast<Token>(position < kShared ? position : 1000 * (sequence + 1) + position);
}

class Engine {
 public:
  struct Piece {
    int sequence;
    std::vector<Token> tokens;
  };

  /// One batch. The new tokens of each sequence follow those that it has.
  void step(std::initializer_list<Piece> pieces) {
    Step s;
    for (const Piece& piece : pieces) {
      Sequence& q = sequences_[piece.sequence];
      s.state_of.push_back(piece.sequence);
      s.start.push_back(q.length);
      for (const Token token : piece.tokens) {
        const std::int32_t position = q.length++, in_page = position % kPageTokens;
        if (position / kPageTokens == static_cast<int>(q.pages.size())) q.pages.push_back(new_page());
        const std::int32_t page = q.pages[static_cast<std::size_t>(position / kPageTokens)];
        const Buffer<bf16> x = random<bf16>(kHidden, token);
        s.x.insert(s.x.end(), x.begin(), x.end());
        s.positions.push_back(position);
        s.sequence_of.push_back(static_cast<std::int32_t>(s.state_of.size()) - 1);
        s.window_slots.push_back(page * kPageTokens + in_page);
        s.entry_slots.push_back(page * kPageEntries + in_page / kRatio);
      }
      s.first_token.push_back(static_cast<std::int32_t>(s.positions.size()));
      for (std::size_t i = 0; i < kMaxPages; ++i) s.pages.push_back(i < q.pages.size() ? q.pages[i] : -1);
    }
    const Buffer<bf16> y = layer_.forward(s, stream_);
    for (std::size_t t = 0; t < s.positions.size(); ++t)
      std::memcpy(output(s.state_of[static_cast<std::size_t>(s.sequence_of[t])], s.positions[t]),
                  y.data() + t * kHidden, kHidden * sizeof(bf16));
  }

  /// Forgets the last tokens. Rows of theirs that caches hold are written again before anyone sees them, and
  /// the compressors go back by being called with a smaller start: at most kMaxRollback below their greatest.
  void take_back(int sequence, int tokens) { sequences_[sequence].length -= tokens; }

  /// The new sequence `to` begins with the full pages of `from`. `state`: saved when `from` was as long.
  void share(int from, int to, int tokens, const CsaLayer::State& state) {
    const auto pages = sequences_[from].pages.begin();
    sequences_[to].pages.assign(pages, pages + tokens / kPageTokens);  // an engine counts their users
    sequences_[to].length = tokens;
    layer_.restore(to, state);
    for (int p = 0; p < tokens; ++p) std::memcpy(output(to, p), output(from, p), kHidden * sizeof(bf16));
  }

  CsaLayer::State save(int sequence) const { return layer_.save(sequence); }
  int length(int sequence) const { return sequences_[sequence].length; }
  int pages() const { return used_; }
  bf16* output(int sequence, int position) { return outputs_[sequence][position]; }

 private:
  struct Sequence {
    std::int32_t length = 0;
    std::vector<std::int32_t> pages;
  };
  std::int32_t new_page() { return (5 * used_++ + 3) % kPages; }  // in no order

  CsaLayer layer_{kPages, kSequences};
  Stream stream_ = make_stream();
  int used_ = 0;
  Sequence sequences_[kSequences];
  bf16 outputs_[kSequences][kEnd + kDrafts + 1][kHidden];
};

std::vector<Token> true_tokens(int sequence, int begin, int end) {
  std::vector<Token> tokens;
  for (int p = begin; p < end; ++p) tokens.push_back(true_token(sequence, p));
  return tokens;
}

}  // namespace

int main() {
  static Engine engine, straight;

  // Prefill: sequence 0 in chunks; 1 begins with 0's first two pages; then both in one batch.
  engine.step({{0, true_tokens(0, 0, 70)}});
  engine.step({{0, true_tokens(0, 70, kShared)}});
  engine.share(0, 1, kShared, engine.save(0));
  engine.step({{0, true_tokens(0, kShared, kPrompt[0])}, {1, true_tokens(1, kShared, kPrompt[1])}});
  std::printf("prefill: 70 + 58 + %d tokens; %d shared, then %d\n", kPrompt[0] - kShared, kShared,
              kPrompt[1] - kShared);

  // Decode: the next token and three drafts of each sequence; of the drafts, `accepted` turn out right.
  int steps = 0, taken_back = 0;
  while (engine.length(0) < kEnd || engine.length(1) < kEnd) {
    const int accepted[kSequences] = {steps % (kDrafts + 1), 2 * steps % (kDrafts + 1)};
    const auto tokens = [&](int s) {
      const int begin = engine.length(s), end = std::min(begin + 1 + accepted[s], kEnd);
      std::vector<Token> t = begin < kEnd ? true_tokens(s, begin, end) : std::vector<Token>{};
      while (!t.empty() && static_cast<int>(t.size()) < 1 + kDrafts)
        t.push_back(777000u + t.size());  // wrong
      return t;
    };
    const std::vector<Token> batch[kSequences] = {tokens(0), tokens(1)};
    engine.step({{0, batch[0]}, {1, batch[1]}});
    for (int s = 0; s < kSequences; ++s) {
      const int wrong = static_cast<int>(
          std::count_if(batch[s].begin(), batch[s].end(), [](Token t) { return t >= 777000; }));
      engine.take_back(s, wrong), taken_back += wrong;
    }
    ++steps;
  }
  std::printf("decode: %d steps of 1 token and %d drafts, %d drafts taken back\n", steps, kDrafts,
              taken_back);

  int differing = 0;
  for (int s = 0; s < kSequences; ++s) {
    straight.step({{s, true_tokens(s, 0, kEnd)}});
    for (int p = 0; p < kEnd; ++p)
      differing += std::memcmp(engine.output(s, p), straight.output(s, p), kHidden * sizeof(bf16)) != 0;
  }
  std::printf("pages: %d, straight %d\n", engine.pages(), straight.pages());
  std::printf("%d of %d output rows differ from the straight run\n", differing, kSequences * kEnd);
  return differing == 0 ? 0 : 1;
}
