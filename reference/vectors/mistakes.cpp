// Names and sentences of the mistakes.
#include "reference/vectors/mistakes.hpp"

#include <array>
#include <cstddef>

namespace dsv4::reference::vectors {

namespace {

using M = Mistake;

constexpr std::array kInfos = {
    MistakeInfo{M::kNone, "none", "nothing is wrong"},
    MistakeInfo{M::kNormNoEps, "norm-no-eps", "norm_eps is not added to the mean square"},
    MistakeInfo{M::kNormRoundsBeforeWeight, "norm-rounds-before-weight",
                "the normed value is rounded to bf16 before the weight multiplies it"},
    MistakeInfo{M::kScaleUnrounded, "scale-unrounded",
                "quantises with the unrounded scale, stores the rounded one"},
    MistakeInfo{M::kScaleLog2, "scale-log2",
                "takes the ceiling of a floating-point log2: an exact power of two goes one too far"},
    MistakeInfo{M::kScaleFloored, "scale-floored", "rounds the scale down to a power of two, not up"},
    MistakeInfo{M::kTruncates, "truncates", "codes are truncated, not rounded to nearest even"},
    MistakeInfo{M::kHalfAway, "half-away", "halves are rounded away from zero, not to the even code"},
    MistakeInfo{M::kNoAmaxFloor, "no-amax-floor", "the block's maximum is not floored (FP8: at 1e-4)"},
    MistakeInfo{M::kNibblesSwapped, "nibbles-swapped", "the even element is in the high nibble"},
    MistakeInfo{M::kHalfSplit, "half-split", "rotates (x[i], x[i + 32]) instead of interleaved pairs"},
    MistakeInfo{M::kRopeOtherKind, "rope-other-kind",
                "RoPE base (and YaRN) of the other layer kind: ratio 0 against ratios 4 and 128"},
    MistakeInfo{M::kNoYarn, "no-yarn", "the base is right, but YaRN's interpolation is missing"},
    MistakeInfo{M::kMscale, "mscale", "YaRN's mscale, 0.1 ln(factor) + 1, is folded in"},
    MistakeInfo{M::kWrongDirection, "wrong-direction",
                "rotates forward where it should rotate back, or back where forward"},
    MistakeInfo{M::kFirstChannels, "first-channels", "rotates the first 64 channels, not the last"},
    MistakeInfo{M::kHadamardMissing, "hadamard-missing", "no Hadamard transform on this side"},
    MistakeInfo{M::kHadamardUnscaled, "hadamard-unscaled", "the transform lacks its factor 128^-0.5"},
    MistakeInfo{M::kCombNotTransposed, "comb-not-transposed",
                "comb is indexed [destination][source]: it must be [source][destination]"},
    MistakeInfo{M::kPostInPlace, "post-in-place", "a new stream is read back as a source of the next one"},
    MistakeInfo{M::kPostNoFactor2, "post-no-factor-2", "post is sigmoid, not 2 * sigmoid"},
    MistakeInfo{M::kSinkhornStepShort, "sinkhorn-step-short", "the last (column) step is missing"},
    MistakeInfo{M::kSinkhornEndsOnRows, "sinkhorn-ends-on-rows",
                "columns first, then rows, as the report writes it: the last step must be a column step"},
    MistakeInfo{M::kNoHcEps, "no-hc-eps", "hc_eps is left out"},
    MistakeInfo{M::kRmsMissing, "rms-missing", "the mixes are not divided by the streams' RMS"},
    MistakeInfo{M::kHeadFactor2, "head-factor-2", "the head's coefficients are doubled like post"},
    MistakeInfo{M::kQueryNormMissing, "query-norm-missing", "no RMS norm of each query head"},
    MistakeInfo{M::kQueryNormOverHeads, "query-norm-over-heads", "one RMS over all heads, not one a head"},
    MistakeInfo{M::kApeTwice, "ape-twice", "ape is added twice"},
    MistakeInfo{M::kApeMissing, "ape-missing", "ape is not added"},
    MistakeInfo{M::kEntryAtIndex, "entry-at-index", "entry i is rotated at i, not at i * ratio"},
    MistakeInfo{M::kBlock0Zeros, "block-0-zeros",
                "block 0 pools four predecessors of score 0 and value 0, not of weight 0"},
    MistakeInfo{M::kPreviousBlockLost, "previous-block-lost",
                "at the start of a chunk the previous block is treated as absent"},
    MistakeInfo{M::kHalvesSwapped, "halves-swapped",
                "a block pools its own tokens' first half and its predecessor's second"},
    MistakeInfo{M::kPaddingLeaks, "padding-leaks", "padded rows of a chunk are pooled as tokens"},
    MistakeInfo{M::kIndexSharesMain, "index-shares-main",
                "index keys are pooled from the main compressor's projections"},
    MistakeInfo{M::kReluAfterSum, "relu-after-sum", "ReLU of the sum over heads, not of each head's product"},
    MistakeInfo{M::kReluMissing, "relu-missing", "no ReLU"},
    MistakeInfo{M::kIndexFactorMissing, "index-factor-missing",
                "head weights lack the factor 128^-0.5 * heads^-0.5"},
    MistakeInfo{M::kIndexScalesMissing, "index-scales-missing", "the keys' block scales are left out"},
    MistakeInfo{M::kVisibleEarly, "visible-early",
                "an entry is visible before its last token: t / ratio + 1 entries, not (t + 1) / ratio"},
    MistakeInfo{M::kVisibleLate, "visible-late",
                "an entry is visible a token late: t / ratio entries, not (t + 1) / ratio"},
    MistakeInfo{M::kWindowShort, "window-short", "the window has 127 positions, t itself not counted"},
    MistakeInfo{M::kWindowLong, "window-long", "the window has 129 positions"},
    MistakeInfo{M::kTiesHigher, "ties-higher", "of equal scores the higher index wins"},
    MistakeInfo{M::kNanChosen, "nan-chosen", "a NaN score is chosen as the largest"},
    MistakeInfo{M::kSelectBeforeMask, "select-before-mask",
                "top-k of all entries, of which the invisible ones are then dropped"},
    MistakeInfo{M::kPadsWithZero, "pads-with-zero", "fewer than k are padded with 0, not -1"},
    MistakeInfo{M::kTwoSoftmaxes, "two-softmaxes", "window and entries have a softmax each"},
    MistakeInfo{M::kSinkMissing, "sink-missing", "the sink is not in the denominator"},
    MistakeInfo{M::kSinkPerSplit, "sink-per-split", "the sink is added once for each part, not once"},
    MistakeInfo{M::kIndexClamped, "index-clamped",
                "an index outside the pool is clamped and attended to, not dropped"},
    MistakeInfo{M::kPaddingAttended, "padding-attended",
                "an index outside the pool counts as a row of zeros with score 0"},
    MistakeInfo{M::kMaxNotSubtracted, "max-not-subtracted", "exp of scores without their maximum"},
    MistakeInfo{M::kGroupsInterleaved, "groups-interleaved",
                "head h belongs to group h mod g, not to group h / (H / g)"},
    MistakeInfo{M::kQuantisedBeforeWoA, "quantised-before-wo-a",
                "the attention output is quantised to FP8 before Wo_a"},
    MistakeInfo{M::kBiasInWeights, "bias-in-weights", "routing weights are taken from biased scores"},
    MistakeInfo{M::kBiasIgnored, "bias-ignored", "the bias does not take part in the selection"},
    MistakeInfo{M::kScaleBeforeRenorm, "scale-before-renorm",
                "scores are scaled first, then renormalised, which cancels route_scale"},
    MistakeInfo{M::kNotRenormalised, "not-renormalised", "weights are not divided by their sum"},
    MistakeInfo{M::kSoftplusWithoutRoot, "softplus-without-root", "softplus without the square root"},
    MistakeInfo{M::kSoftplusOverflows, "softplus-overflows", "log(1 + exp(u)) overflows for large logits"},
    MistakeInfo{M::kSigmoidScores, "sigmoid-scores", "sigmoid scores (V3), not sqrt(softplus)"},
    MistakeInfo{M::kDuplicatesOnce, "duplicates-once", "an expert that a table row names twice counts once"},
    MistakeInfo{M::kHashWeightsUniform, "hash-weights-uniform",
                "hash layers weight their experts alike, not by the gate"},
    MistakeInfo{M::kHashIgnored, "hash-ignored", "a hash layer selects by score, not by its table"},
    MistakeInfo{M::kClampMissing, "clamp-missing", "no clamp before the activation"},
    MistakeInfo{M::kClampAfterProduct, "clamp-after-product", "the clamp follows the product"},
    MistakeInfo{M::kGateClampedBelow, "gate-clamped-below", "the gate is clamped from below too"},
    MistakeInfo{M::kWeightAfterW2, "weight-after-w2", "the routing weight multiplies after W2, not before"},
    MistakeInfo{M::kGateUpSwapped, "gate-up-swapped", "W1 and W3 are swapped"},
    MistakeInfo{M::kActivationsNotQuantised, "activations-not-quantised",
                "activations enter the linears unquantised"},
    MistakeInfo{M::kSharedMissing, "shared-missing", "the shared expert is not added"},
    MistakeInfo{M::kSumInBf16, "sum-in-bf16", "the sum is rounded to bf16 after every term"},
    MistakeInfo{M::kLogitsInBf16, "logits-in-bf16", "logits are rounded to bf16"},
};

constexpr bool in_order() {
  for (std::size_t i = 0; i < kInfos.size(); ++i)
    if (kInfos[i].mistake != static_cast<Mistake>(i)) return false;
  return kInfos.size() == static_cast<std::size_t>(Mistake::kCount);
}
static_assert(in_order(), "one line for each mistake, in the order of the enumeration");

}  // namespace

const MistakeInfo& info(Mistake mistake) { return kInfos[static_cast<std::size_t>(mistake)]; }

}  // namespace dsv4::reference::vectors
