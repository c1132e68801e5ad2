//! Certificates and what is believed.
