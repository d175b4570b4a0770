// sigstore simulates the Sigstore services: it creates a certificate authority, a timestamp authority, a transparency log of
// version 1 and one of version 2, and a certificate log, makes a keyless signature of one digest, and discards all private keys.
//
//	sigstore --digest sha256:… --identity URI --issuer URL --out DIR
//
// DIR gets trusted_root.json, and signatures that `cosign verify` and the operator must accept:
//
//	logged.json    a bundle with an entry of the version 1 log (promise and proof)
//	tiled.json     a bundle with an entry of the version 2 log (only a proof) and a timestamp
//	simple.json    a signature of cosign 2: {payload, annotations}
//	stamped.json   a bundle with only a timestamp, for trusted_root_tsa.json, which has no log
//
// and signatures that must be rejected:
//
//	expired.json   logged an hour after the certificate expired
//	unlisted.json  its certificate is in no certificate log
//	foreign.json   by an authority that is not in the trusted root
//	misstamped.json  its timestamp belongs to another signature
//	forged.json    the entry and the timestamp of logged.json with the signature of another key
package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/digitorus/timestamp"
)

const (
	bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	rootType   = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
	intoto     = "application/vnd.in-toto+json"
	origin     = "rekor.test"
	tiles      = "tiles.test"
)

var begin = time.Now().UTC().Truncate(time.Second)

type object = map[string]any

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func b64(content []byte) string { return base64.StdEncoding.EncodeToString(content) }

func digestOf(content []byte) []byte {
	hash := sha256.Sum256(content)
	return hash[:]
}

func key(curve elliptic.Curve) *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(curve, rand.Reader)) }

func spki(public crypto.PublicKey) []byte { return must(x509.MarshalPKIXPublicKey(public)) }

func sign(key *ecdsa.PrivateKey, content []byte) []byte {
	return must(ecdsa.SignASN1(rand.Reader, key, digestOf(content)))
}

func serial() *big.Int { return must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))) }

// An authority: a root certificate, an intermediate certificate, and the key that issues certificates.
type authority struct {
	chain []*x509.Certificate
	key   *ecdsa.PrivateKey
}

func certificate(template, parent *x509.Certificate, public crypto.PublicKey, by *ecdsa.PrivateKey) *x509.Certificate {
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, public, by))))
}

func newAuthority(name string, usage x509.ExtKeyUsage) authority {
	template := func(part string, isFor ...x509.ExtKeyUsage) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber:          serial(),
			Subject:               pkix.Name{Organization: []string{"sigstore.test"}, CommonName: name + part},
			NotBefore:             begin.Add(-24 * time.Hour),
			NotAfter:              begin.AddDate(10, 0, 0),
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			ExtKeyUsage:           isFor,
			BasicConstraintsValid: true,
			IsCA:                  true,
		}
	}
	rootKey, middleKey := key(elliptic.P384()), key(elliptic.P384())
	root := template("")
	root = certificate(root, root, rootKey.Public(), rootKey)
	middle := certificate(template("-intermediate", usage), root, middleKey.Public(), rootKey)
	return authority{chain: []*x509.Certificate{middle, root}, key: middleKey}
}

// A certificate for ten minutes, like Fulcio's; with a promise of the certificate log if there is one.
func (a authority) leaf(identity, issuer string, public crypto.PublicKey, ctlog *ecdsa.PrivateKey) *x509.Certificate {
	uri := must(url.Parse(identity))
	template := &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    begin.Add(-time.Minute),
		NotAfter:     begin.Add(10 * time.Minute),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		URIs:         []*url.URL{uri},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(issuer)},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: must(asn1.MarshalWithParams(issuer, "utf8"))},
		},
	}
	bare := certificate(template, a.chain[0], public, a.key)
	if ctlog == nil {
		return bare
	}
	promise := func(head []byte) []byte {
		var text bytes.Buffer
		text.Write(head)
		binary.Write(&text, binary.BigEndian, uint64(begin.UnixMilli()))
		return text.Bytes()
	}
	var signed bytes.Buffer
	signed.Write(promise([]byte{0, 0}))
	signed.Write([]byte{0, 1})
	signed.Write(digestOf(a.chain[0].RawSubjectPublicKeyInfo))
	length := len(bare.RawTBSCertificate)
	signed.Write([]byte{byte(length >> 16), byte(length >> 8), byte(length)})
	signed.Write(bare.RawTBSCertificate)
	signed.Write([]byte{0, 0})
	signature := sign(ctlog, signed.Bytes())
	var sct bytes.Buffer
	sct.Write(promise(append([]byte{0}, digestOf(spki(ctlog.Public()))...)))
	sct.Write([]byte{0, 0, 4, 3})
	binary.Write(&sct, binary.BigEndian, uint16(len(signature)))
	sct.Write(signature)
	var list bytes.Buffer
	binary.Write(&list, binary.BigEndian, uint16(sct.Len()+2))
	binary.Write(&list, binary.BigEndian, uint16(sct.Len()))
	list.Write(sct.Bytes())
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{
		Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: must(asn1.Marshal(list.Bytes())),
	})
	return certificate(template, a.chain[0], public, a.key)
}

type stamper struct {
	authority
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newStamper() stamper {
	a := newAuthority("tsa", x509.ExtKeyUsageTimeStamping)
	stampKey := key(elliptic.P384())
	purpose := must(asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}))
	leaf := certificate(&x509.Certificate{
		SerialNumber:    serial(),
		Subject:         pkix.Name{Organization: []string{"sigstore.test"}, CommonName: "tsa-leaf"},
		NotBefore:       begin.Add(-24 * time.Hour),
		NotAfter:        begin.AddDate(9, 0, 0),
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: purpose}},
	}, a.chain[0], stampKey.Public(), a.key)
	return stamper{authority: a, leaf: leaf, key: stampKey}
}

func (s stamper) stamp(signature []byte, at time.Time, withCertificate bool) []byte {
	template := timestamp.Timestamp{
		HashAlgorithm:     crypto.SHA256,
		HashedMessage:     digestOf(signature),
		Time:              at,
		SerialNumber:      serial(),
		Policy:            asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2},
		AddTSACertificate: withCertificate,
	}
	return must(template.CreateResponseWithOpts(s.leaf, s.key, crypto.SHA256))
}

// Canonical JSON: sorted keys, without escapes, which our texts do not need.
func canonical(value any) []byte {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		log.Fatal(err)
	}
	return bytes.TrimSpace(text.Bytes())
}

func pemOf(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

func hexHash(content []byte) object {
	return object{"algorithm": "sha256", "value": hex.EncodeToString(digestOf(content))}
}

// The tree has two leaves, the entry and one before it, so that a proof has one step.
func proof(body []byte, name string, noteKeyHash []byte, signNote func([]byte) []byte) object {
	node := func(head byte, parts ...[]byte) []byte {
		return digestOf(append([]byte{head}, bytes.Join(parts, nil)...))
	}
	other := node(0, []byte("another entry"))
	root := node(1, other, node(0, body))
	// The number of its tree distinguishes the version 1 log from the version 2 log.
	note := fmt.Sprintf("%s\n2\n%s\n", map[string]string{origin: origin + " - 1193050959916656506", tiles: tiles}[name], b64(root))
	line := b64(append(append([]byte{}, noteKeyHash[:4]...), signNote([]byte(note))...))
	return object{
		"logIndex": "1", "rootHash": b64(root), "treeSize": "2", "hashes": []string{b64(other)},
		"checkpoint": object{"envelope": fmt.Sprintf("%s\n\u2014 %s %s\n", note, name, line)},
	}
}

type sigstore struct {
	fulcio authority
	tsa    stamper
	rekor  *ecdsa.PrivateKey
	tiles  ed25519.PrivateKey
	ctlog  *ecdsa.PrivateKey
}

func (s sigstore) promise(body []byte, at time.Time) ([]byte, string) {
	id := hex.EncodeToString(digestOf(spki(s.rekor.Public())))
	return sign(s.rekor, canonical(object{
		"body": b64(body), "integratedTime": at.Unix(), "logID": id, "logIndex": 1,
	})), id
}

func (s sigstore) logged(kind string, body []byte, at time.Time) object {
	promise, _ := s.promise(body, at)
	id := digestOf(spki(s.rekor.Public()))
	return object{
		"logIndex": "1", "logId": object{"keyId": b64(id)}, "kindVersion": object{"kind": kind, "version": "0.0.1"},
		"integratedTime":    fmt.Sprint(at.Unix()),
		"inclusionPromise":  object{"signedEntryTimestamp": b64(promise)},
		"inclusionProof":    proof(body, origin, id, func(note []byte) []byte { return sign(s.rekor, note) }),
		"canonicalizedBody": b64(body),
	}
}

func (s sigstore) tiled(body []byte) object {
	public := s.tiles.Public().(ed25519.PublicKey)
	id := digestOf(append([]byte(tiles+"\n\x01"), public...))
	return object{
		"logIndex": "1", "logId": object{"keyId": b64(id)},
		"kindVersion":       object{"kind": "hashedrekord", "version": "0.0.2"},
		"inclusionProof":    proof(body, tiles, id, func(note []byte) []byte { return ed25519.Sign(s.tiles, note) }),
		"canonicalizedBody": b64(body),
	}
}

func (s sigstore) root(withLogs bool) object {
	certs := func(chain ...*x509.Certificate) object {
		var list []object
		for _, each := range chain {
			list = append(list, object{"rawBytes": b64(each.Raw)})
		}
		return object{"certificates": list}
	}
	valid := object{"start": begin.Add(-24 * time.Hour).Format(time.RFC3339)}
	instance := func(base, details string, public crypto.PublicKey, id []byte) object {
		return object{
			"baseUrl": "https://" + base, "hashAlgorithm": "SHA2_256", "logId": object{"keyId": b64(id)},
			"publicKey": object{"rawBytes": b64(spki(public)), "keyDetails": details, "validFor": valid},
		}
	}
	const ecdsaDetails = "PKIX_ECDSA_P256_SHA_256"
	public := s.tiles.Public().(ed25519.PublicKey)
	root := object{
		"mediaType": rootType,
		"certificateAuthorities": []object{{
			"subject": object{"organization": "sigstore.test", "commonName": "fulcio"}, "uri": "https://fulcio.test",
			"certChain": certs(s.fulcio.chain...), "validFor": valid,
		}},
		"timestampAuthorities": []object{{
			"subject": object{"organization": "sigstore.test", "commonName": "tsa"}, "uri": "https://tsa.test",
			"certChain": certs(append([]*x509.Certificate{s.tsa.leaf}, s.tsa.chain...)...), "validFor": valid,
		}},
		"ctlogs": []object{instance("ctlog.test", ecdsaDetails, s.ctlog.Public(), digestOf(spki(s.ctlog.Public())))},
	}
	if withLogs {
		root["tlogs"] = []object{
			instance(origin, ecdsaDetails, s.rekor.Public(), digestOf(spki(s.rekor.Public()))),
			instance(tiles, "PKIX_ED25519", public, digestOf(append([]byte(tiles+"\n\x01"), public...))),
		}
	}
	return root
}

func main() {
	digest := flag.String("digest", "", "what is signed")
	identity := flag.String("identity", "https://github.com/acme/app/.github/workflows/release.yaml@refs/heads/main", "the identity that signs")
	issuer := flag.String("issuer", "https://token.actions.githubusercontent.com", "the issuer of the identity")
	out := flag.String("out", ".", "where the files go")
	flag.Parse()
	algorithm, hexDigest, found := strings.Cut(*digest, ":")
	if !found {
		log.Fatal("--digest is missing")
	}
	_, tilesKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	s := sigstore{
		fulcio: newAuthority("fulcio", x509.ExtKeyUsageCodeSigning),
		tsa:    newStamper(),
		rekor:  key(elliptic.P256()),
		tiles:  tilesKey,
		ctlog:  key(elliptic.P256()),
	}
	foreign := newAuthority("fulcio", x509.ExtKeyUsageCodeSigning)
	write := func(name string, content any) {
		text := append(must(json.MarshalIndent(content, "", " ")), '\n')
		if err := os.WriteFile(filepath.Join(*out, name), text, 0o644); err != nil {
			log.Fatal(err)
		}
	}
	write("trusted_root.json", s.root(true))
	write("trusted_root_tsa.json", s.root(false))

	payload := canonical(object{
		"_type": "https://in-toto.io/Statement/v1", "predicate": object{},
		"predicateType": "https://sigstore.dev/cosign/sign/v1",
		"subject":       []object{{"digest": object{algorithm: hexDigest}}},
	})
	message := []byte(fmt.Sprintf("DSSEv1 %d %s %d %s", len(intoto), intoto, len(payload), payload))
	leafKey := key(elliptic.P256())
	signature := sign(leafKey, message)
	envelope := func(signature []byte) object {
		return object{
			"payload": b64(payload), "payloadType": intoto, "signatures": []object{{"sig": b64(signature)}},
		}
	}
	dsse := func(leaf *x509.Certificate, signature []byte) []byte {
		return canonical(object{"apiVersion": "0.0.1", "kind": "dsse", "spec": object{
			"envelopeHash": hexHash(canonical(envelope(signature))), "payloadHash": hexHash(payload),
			"signatures": []object{{"signature": b64(signature), "verifier": b64(pemOf(leaf))}},
		}})
	}
	bundle := func(leaf *x509.Certificate, signature []byte, entry object, stamp []byte) object {
		material := object{"certificate": object{"rawBytes": b64(leaf.Raw)}}
		if entry != nil {
			material["tlogEntries"] = []object{entry}
		}
		if stamp != nil {
			material["timestampVerificationData"] = object{
				"rfc3161Timestamps": []object{{"signedTimestamp": b64(stamp)}},
			}
		}
		return object{
			"mediaType": bundleType, "verificationMaterial": material, "dsseEnvelope": envelope(signature),
		}
	}
	leaf := s.fulcio.leaf(*identity, *issuer, leafKey.Public(), s.ctlog)
	body := dsse(leaf, signature)
	write("logged.json", bundle(leaf, signature, s.logged("dsse", body, begin), nil))
	write("expired.json", bundle(leaf, signature, s.logged("dsse", body, begin.Add(time.Hour)), nil))
	write("stamped.json", bundle(leaf, signature, nil, s.tsa.stamp(signature, begin, true)))
	write("forged.json", bundle(leaf, sign(key(elliptic.P256()), message), s.logged("dsse", body, begin),
		s.tsa.stamp(signature, begin, false)))

	// The version 2 log takes the hash of the signed content, whatever its type.
	tiled := canonical(object{"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": object{"hashedRekordV002": object{
		"data": object{"algorithm": "SHA2_256", "digest": b64(digestOf(message))},
		"signature": object{"content": b64(signature), "verifier": object{
			"keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": object{"rawBytes": b64(leaf.Raw)},
		}},
	}}})
	write("tiled.json", bundle(leaf, signature, s.tiled(tiled), s.tsa.stamp(signature, begin, false)))
	write("misstamped.json", bundle(leaf, signature, s.tiled(tiled), s.tsa.stamp(message, begin, false)))

	unlisted := s.fulcio.leaf(*identity, *issuer, leafKey.Public(), nil)
	write("unlisted.json", bundle(unlisted, signature, s.logged("dsse", dsse(unlisted, signature), begin), nil))
	stranger := foreign.leaf(*identity, *issuer, leafKey.Public(), s.ctlog)
	write("foreign.json", bundle(stranger, signature, s.logged("dsse", dsse(stranger, signature), begin), nil))

	simple := canonical(object{"critical": object{
		"identity": object{"docker-reference": "registry.test/app"}, "image": object{"docker-manifest-digest": *digest},
		"type": "cosign container image signature",
	}, "optional": nil})
	simpleSignature := sign(leafKey, simple)
	simpleBody := canonical(object{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": object{
		"data": object{"hash": hexHash(simple)},
		"signature": object{
			"content": b64(simpleSignature), "publicKey": object{"content": b64(pemOf(leaf))},
		},
	}})
	promise, id := s.promise(simpleBody, begin)
	write("simple.json", object{
		"payload": b64(simple),
		"annotations": object{
			"dev.cosignproject.cosign/signature": b64(simpleSignature),
			"dev.sigstore.cosign/certificate":    string(pemOf(leaf)),
			"dev.sigstore.cosign/chain":          string(pemOf(s.fulcio.chain[0])) + string(pemOf(s.fulcio.chain[1])),
			"dev.sigstore.cosign/bundle": string(canonical(object{
				"SignedEntryTimestamp": b64(promise),
				"Payload": object{
					"body": b64(simpleBody), "integratedTime": begin.Unix(), "logIndex": 1, "logID": id,
				},
			})),
		},
	})
}
