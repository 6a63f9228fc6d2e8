// What implementations of DeepSeek-V4 get wrong: every mistake that the oracles can make on purpose.
#pragma once

#include <cstdint>
#include <string_view>

namespace dsv4::reference::vectors {

enum class Mistake : std::uint8_t {
  kNone,
  // norms
  kNormNoEps,
  kNormRoundsBeforeWeight,
  // quantisers and packing
  kScaleUnrounded,
  kScaleLog2,
  kScaleFloored,
  kTruncates,
  kHalfAway,
  kNoAmaxFloor,
  kNibblesSwapped,
  // rotation
  kHalfSplit,
  kRopeOtherKind,
  kNoYarn,
  kMscale,
  kWrongDirection,
  kFirstChannels,
  kHadamardMissing,
  kHadamardUnscaled,
  // mHC
  kCombNotTransposed,
  kPostInPlace,
  kPostNoFactor2,
  kSinkhornStepShort,
  kSinkhornEndsOnRows,
  kNoHcEps,
  kRmsMissing,
  kHeadFactor2,
  // queries, compressor, indexer
  kQueryNormMissing,
  kQueryNormOverHeads,
  kApeTwice,
  kApeMissing,
  kEntryAtIndex,
  kBlock0Zeros,
  kPreviousBlockLost,
  kHalvesSwapped,
  kPaddingLeaks,
  kIndexSharesMain,
  kReluAfterSum,
  kReluMissing,
  kIndexFactorMissing,
  kIndexScalesMissing,
  // visibility, selection, attention
  kVisibleEarly,
  kVisibleLate,
  kWindowShort,
  kWindowLong,
  kTiesHigher,
  kNanChosen,
  kSelectBeforeMask,
  kPadsWithZero,
  kTwoSoftmaxes,
  kSinkMissing,
  kSinkPerSplit,
  kIndexClamped,
  kPaddingAttended,
  kMaxNotSubtracted,
  kGroupsInterleaved,
  kQuantisedBeforeWoA,
  // mixture of experts
  kBiasInWeights,
  kBiasIgnored,
  kScaleBeforeRenorm,
  kNotRenormalised,
  kSoftplusWithoutRoot,
  kSoftplusOverflows,
  kSigmoidScores,
  kDuplicatesOnce,
  kHashWeightsUniform,
  kHashIgnored,
  kClampMissing,
  kClampAfterProduct,
  kGateClampedBelow,
  kWeightAfterW2,
  kGateUpSwapped,
  kActivationsNotQuantised,
  kSharedMissing,
  kSumInBf16,
  kLogitsInBf16,
  kCount,
};

struct MistakeInfo {
  Mistake mistake;
  std::string_view name;      // "comb-not-transposed", as dsv4_check prints it
  std::string_view sentence;  // what the code does instead of what it should
};

const MistakeInfo& info(Mistake mistake);

}  // namespace dsv4::reference::vectors
