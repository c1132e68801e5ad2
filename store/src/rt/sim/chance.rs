//! Chance that follows from a seed.

/// Numbers from a seed: xorshift64 (Marsaglia, 2003).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The numbers that follow from a seed.
    pub fn new(seed: u64) -> Self {
        // Seeds that are near each other must not begin alike (the multiplier is Fibonacci hashing's).
        let mut chance = Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            chance.draw();
        }
        chance
    }

    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below a limit that is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.draw() >> 11) % limit
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
