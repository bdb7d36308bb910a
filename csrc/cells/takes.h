// A cell declares the options that it takes and its activations with these bits and names.
#pragma once

namespace rnnk {

// The values of rnnk_activation_kind.
enum class Activate {
  of_cell,
  relu,
  tanh,
  sigmoid,
  affine,
  leaky_relu,
  thresholded_relu,
  scaled_tanh,
  hard_sigmoid,
  elu,
  softsign,
  softplus
};

// Bits of a cell's kTakes. Every cell takes zoneout of h, recurrent_dropout and heads.
enum Takes : unsigned {
  kTakesClip = 1,
  kTakesLayerNorm = 2,
  kTakesProjection = 4,
  kTakesPeephole = 8,
  kTakesCoupled = 16,
  kTakesResetBefore = 32,
  kTakesIndependent = 64,
  kTakesCellZoneout = 128  // zoneout of c
};

}  // namespace rnnk
