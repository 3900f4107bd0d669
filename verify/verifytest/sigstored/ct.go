package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
)

// ctLog promises to log certificates, which is all that a verifier can see of a
// certificate transparency log without asking it. It keeps none.
type ctLog struct {
	key *ecdsa.PrivateKey
	der []byte   // its public key
	id  [32]byte // the digest of der
}

func newCTLog() (*ctLog, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return &ctLog{key, der, sha256.Sum256(der)}, nil
}

// ServeHTTP is add-pre-chain of RFC 6962, the one call that Fulcio makes.
func (l *ctLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var request ct.AddChainRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var chain []*ctx509.Certificate
	for _, der := range request.Chain {
		c, err := ctx509.ParseCertificate(der)
		if ctx509.IsFatal(err) {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		chain = append(chain, c)
	}
	response, err := l.promise(chain, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, response)
}

func (l *ctLog) promise(chain []*ctx509.Certificate, now time.Time) (*ct.AddChainResponse, error) {
	sct := ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1,
		LogID:      ct.LogID{KeyID: l.id},
		Timestamp:  uint64(now.UnixMilli()),
	}
	leaf, err := ct.MerkleTreeLeafFromChain(chain, ct.PrecertLogEntryType, sct.Timestamp)
	if err != nil {
		return nil, err
	}
	message, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: *leaf})
	if err != nil {
		return nil, err
	}
	signed, err := cttls.CreateSignature(*l.key, cttls.SHA256, message)
	if err != nil {
		return nil, err
	}
	signature, err := cttls.Marshal(ct.DigitallySigned(signed))
	if err != nil {
		return nil, err
	}
	return &ct.AddChainResponse{SCTVersion: ct.V1, ID: l.id[:], Timestamp: sct.Timestamp, Signature: signature}, nil
}
