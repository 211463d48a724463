// Waiting for the lanes of a warp to come together.
#pragma once
#include "launch.h"

namespace exe {

enum class Together : uint8_t { kReady, kWait, kNever };

// Whether all living lanes named in the active lanes' masks are active. Throws Fault for a lane that is not in its own mask.
Together together(Warp& w, const Ins* i, const uint32_t* masks);

// For instructions all 32 lanes must execute: true if they do; false after parking the group until the others come; throws Fault if they
// never will.
bool whole_warp(Warp& w, const Ins* i);

}  // namespace exe
